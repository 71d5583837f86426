"""Implement `inhouse doctor`: run all checks concurrently and print the findings as a table, as lines or as JSON.

Exit status: 0 if nothing is wrong (warnings are allowed), 1 if something is, 78 for mistakes in the settings. Settings
with mistakes are replaced by their defaults, so that all other checks run.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from functools import partial

from rich.console import Console

from bot.cli import check_packages
from bot.config.settings import MANAGED, TOKENS, Misconfigured, Settings, load_settings, near_misses, secrets, variable
from bot.doctor import (
    hub_checks,
    machine_checks,
    model_checks,
    network_checks,
    settings_checks,
    state_checks,
    systemd_checks,
)
from bot.doctor.check_runner import LONG_S, Check, Section, blocking, run_checks
from bot.doctor.report import Report
from bot.doctor.torch_probe import run_probe
from bot.types.errors import EX_CONFIG, ConfigError
from bot.types.findings import Finding, State, from_error, ok, wrong

MODELS = ("catalog", "models")
MEMORY = (*MODELS, "device", "dtype", "quantization", "gpu_layers", "kv_cache_mb")
ENGINE = ("engine", "engine_urls", "engine_key", "engine_ca", "model")
SERVER = ("engine", "engine_args", "device")
STATE = ("state_dir",)
DATABASE = ("state_dir", "database_url")
HTTP = ("http", "http_token")
DISCORD = ("discord_bot_token", "discord_proxy")
SLACK = ("slack_bot_token", "slack_app_token", "slack_api_url", "slack_command")
"""The settings that checks depend on."""


def diagnose(*, as_json: bool) -> int:
    """Run all checks, print the findings, and return the exit status."""
    mistakes: Sequence[str] = ()
    invalid: Set[str] = frozenset()
    try:
        settings = load_settings()
    except Misconfigured as error:
        settings, mistakes, invalid = error.usable, error.mistakes, error.invalid
    console = Console(highlight=False)
    hidden = [*secrets(settings), *(value for name in TOKENS.values() if (value := os.environ.get(name)))]
    report = Report(console, hidden)
    with quiet():
        asyncio.run(_run(sections(settings, mistakes, invalid), report, console, show=not as_json))
    if as_json:
        sys.stdout.write(f"{report.json()}\n")
    else:
        console.print(report.summary())
    if mistakes:
        return EX_CONFIG
    return int(any(finding.state is State.WRONG for finding in report.findings))


async def _run(sections: Sequence[Section], report: Report, console: Console, *, show: bool) -> None:
    """Run the checks; show the names of running checks if the output is a terminal."""
    progress_console = console if show and console.is_terminal else Console(stderr=True)
    with progress_console.status("checking") as status:

        def waiting(names: Sequence[str]) -> None:
            status.update(f"checking {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}")

        async for title, findings in run_checks(sections, waiting):
            report.add(title, findings, show=show)


def sections(settings: Settings, mistakes: Sequence[str] = (), invalid: Set[str] = frozenset()) -> list[Section]:
    """All sections, in display order.

    invalid: settings that have a default in place of a mistake; what depends on one of them is not checked.
    """
    return [
        replace(section, checks=[_unless_invalid(check, invalid) for check in section.checks])
        for section in _sections(settings, mistakes)
    ]


def _unless_invalid(check: Check, invalid: Set[str]) -> Check:
    """Replace a check by a finding if one of its settings is invalid, since a default would be checked instead."""
    names = ", ".join(variable(name) for name in check.settings if name in invalid)
    if not names:
        return check
    finding = wrong(check.name, f"not checked, because {names} is invalid", "Correct the setting.")
    return replace(check, start=blocking(lambda: [finding]))


def _sections(settings: Settings, mistakes: Sequence[str]) -> list[Section]:
    probe = machine_checks.TorchProbeCache(partial(run_probe, settings.cache_dir))
    running = state_checks.running(settings)
    serving = any((settings.discord_bot_token, settings.slack_bot_token, settings.slack_app_token))
    return [
        Section(
            "Settings",
            [
                Check("settings", blocking(lambda: settings_checks.configuration(mistakes, near_misses()))),
                Check(".env", blocking(settings_checks.env_file)),
                Check("credentials", blocking(systemd_checks.credentials)),
            ],
        ),
        Section(
            "Machine",
            [
                Check("Python", blocking(machine_checks.python)),
                Check("packages", blocking(packages)),
                Check("memory", blocking(machine_checks.memory)),
                Check(
                    "torch and the GPU", lambda: machine_checks.gpu(probe, settings.device, settings.gpu_layers), LONG_S
                ),
            ],
        ),
        *_engine(settings, probe, running=running, serving=serving),
        Section(
            "State",
            [
                Check("state", blocking(lambda: state_checks.directory(settings)), settings=STATE),
                Check("disk of state", blocking(lambda: state_checks.disk(settings)), settings=STATE),
                Check("database", blocking(lambda: state_checks.database(settings)), LONG_S, DATABASE),
            ],
        ),
        *_outside(settings, running=running),
        Section("Service", [Check("systemd", systemd_checks.service)]),
    ]


def _engine(
    settings: Settings, probe: machine_checks.TorchProbeCache, *, running: bool, serving: bool
) -> list[Section]:
    if "worker" not in settings.roles:
        found = f"this host writes no answers (INHOUSE_ROLES is {','.join(settings.roles)})"
        return [Section("Engine", [Check("engine", blocking(lambda: [ok("engine", found)]))])]
    if settings.engine == "openai":
        return [_servers(settings)]
    from bot.engine.local_server.checks import recommended, server

    async def has_gpu() -> bool:
        torch = await probe.torch()
        return bool(torch.gpus) and not torch.trouble

    if settings.engine in MANAGED:
        check = Check("server", lambda: server(settings, has_gpu), LONG_S, SERVER)
    else:
        check = Check("engine", lambda: recommended(has_gpu), LONG_S, SERVER)
    return [Section("Engine", [check]), _local_models(settings, probe, running=running, serving=serving)]


def _local_models(
    settings: Settings, probe: machine_checks.TorchProbeCache, *, running: bool, serving: bool
) -> Section:
    return Section(
        "Models",
        [
            Check("catalog", blocking(lambda: model_checks.catalog(settings)), settings=MODELS),
            Check("models", blocking(lambda: model_checks.cached(settings, serving=serving)), settings=MODELS),
            Check("fit", lambda: model_checks.fit(settings, probe, running=running), LONG_S, MEMORY),
            Check("disk of models", blocking(lambda: model_checks.disk(settings)), settings=MODELS),
            Check("the hub", blocking(lambda: hub_checks.account(settings)), settings=("hf_token",)),
            Check("access to models", blocking(lambda: hub_checks.access(settings)), LONG_S, (*MODELS, "hf_token")),
        ],
    )


def _servers(settings: Settings) -> Section:
    from bot.engine.remote.checks import servers

    return Section("Model servers", [Check("servers", lambda: servers(settings), LONG_S, ENGINE)])


def packages() -> Iterator[Finding]:
    """Check that Python imports this distribution's `adapters` package."""
    try:
        check_packages()
    except ConfigError as error:
        yield from_error("packages", State.WRONG, str(error))
    else:
        yield ok("packages", "'bot' and 'adapters' are Inhouse's own")


def _outside(settings: Settings, *, running: bool) -> list[Section]:
    """The sections that use the network; empty if `adapters` is not ours."""
    with contextlib.suppress(ConfigError):
        check_packages()
        from adapters.discord.setup import checks as discord
        from adapters.slack.setup import checks as slack

        asked = {
            **({"Discord": discord.clock(settings)} if settings.discord_bot_token else {}),
            **({"Slack": slack.clock(settings)} if settings.slack_bot_token or settings.slack_app_token else {}),
            **hub_checks.clock(),
        }
        hosts = partial(state_checks.running_hosts, settings)
        return [
            Section(
                "Network",
                [
                    Check("proxy", lambda: network_checks.proxies(settings), settings=("discord_proxy",)),
                    Check("clock", lambda: network_checks.clock(asked)),
                    Check("status page", lambda: network_checks.status_page(settings, running=running), settings=HTTP),
                ],
            ),
            Section("Discord", [Check("Discord", lambda: discord.examine(settings), settings=DISCORD)]),
            Section("Slack", [Check("Slack", lambda: slack.examine(settings, hosts), LONG_S, SLACK)]),
        ]
    return []


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard log output of libraries; the checks report the relevant failures themselves."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeHandler(silent)
