"""Define the command line `inhouse`.

Exit status: 0 success, 1 failure, 2 `init` has no terminal to ask its questions, 78 (EX_CONFIG) usage or configuration
error, 130 interrupted. An error is one sentence on stderr, never a traceback. Commands import their dependencies when
they run, so that `--help` stays fast.
"""

import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from bot.types.errors import EX_CONFIG, ConfigError, InhouseError

logging.getLogger("dotenv").setLevel(logging.ERROR)  # load_settings reports malformed lines of .env itself

app = typer.Typer(
    name="inhouse",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
database = typer.Typer(help="Manage the database.", rich_markup_mode=None)
app.add_typer(database, name="db")


def main() -> None:
    """Run the command in sys.argv and exit the process."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # huggingface_hub sends data about this machine otherwise
    try:
        if sys.argv[1:2] != ["doctor"]:  # doctor reports this problem as a finding
            check_packages()
        status = app(standalone_mode=False, prog_name="inhouse") or 0
    except typer.TyperException as error:
        _print_error(f"inhouse: {_with_help(error)}")
        status = EX_CONFIG
    except InhouseError as error:
        _print_error(f"inhouse: {error}")
        status = EX_CONFIG if isinstance(error, ConfigError) else 1
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    sys.exit(status)


def _with_help(error: typer.TyperException) -> str:
    """Format a usage error as one line that names the help command."""
    sentence = " ".join(error.format_message().split())
    context: typer.Context | None = getattr(error, "ctx", None)  # only usage errors have one
    command = context.command_path if context else "inhouse"
    return f"{sentence}{'' if sentence.endswith(('.', '?')) else '.'} See `{command} --help`."


def _print_error(sentence: str) -> None:
    """Print an error to stderr, with a priority prefix if stderr is the journal."""
    from bot.observability.logs import leads_to_journal, prefixed

    typer.echo(prefixed(sentence, logging.ERROR) if leads_to_journal(sys.stderr) else sentence, err=True)


def check_packages() -> None:
    """Raise ConfigError if Python would import an `adapters` package of another distribution."""
    ours = Path(__file__).parents[2]
    found = importlib.util.find_spec("adapters")
    if found is None or found.origin is None or Path(found.origin).parents[1] != ours:
        where = found.origin if found and found.origin else "nowhere"
        raise ConfigError(
            f"Python imports the package 'adapters' from {where} instead of {ours}: "
            "install Inhouse in a virtual environment of its own."
        )


def _show_version(requested: bool) -> None:
    if requested:
        from bot.config.version import version

        typer.echo(f"inhouse {version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _inhouse(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A chat bot for Discord and Slack that answers with a language model of your own."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _catalog_names(incomplete: str) -> list[str]:
    """Shell completion: names in the catalog."""
    from bot.config.settings import load_settings
    from bot.models.catalog import Catalog

    try:
        names = sorted(spec.name for spec in Catalog.of(load_settings()))
    except InhouseError:  # completion must not print a traceback for a mistake in the settings
        return []
    return [name for name in names if name.startswith(incomplete)]


def _installed_names(incomplete: str) -> list[str]:
    """Shell completion: names of installed models."""
    from bot.config.settings import load_settings
    from bot.models.catalog import Catalog
    from bot.models.pull import installed

    try:
        settings = load_settings()
        names = sorted(spec.name for spec in Catalog.of(settings) if spec.repo and installed(spec, settings))
    except InhouseError:
        return []
    return [name for name in names if name.startswith(incomplete)]


@app.command("chat")
def _chat(
    model: Annotated[
        str | None,
        typer.Option(help="Catalog name, org/name, org/name:Q4_K_M or a path.", autocompletion=_catalog_names),
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Do not use the GPU.")] = False,
    gpu_layers: Annotated[int | None, typer.Option(help="Layers to keep on the GPU; the rest run on the CPU.")] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Randomness, 0 to 2. At 0, always the likeliest word.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Maximum length of an answer, in tokens.")] = None,
    system: Annotated[str | None, typer.Option(help="Instructions for the model (system prompt).")] = None,
    once: Annotated[str | None, typer.Option(metavar="QUESTION", help="Answer this question and exit.")] = None,
) -> None:
    """Chat in the terminal, or answer each line of a pipe."""
    from bot.config.settings import load_settings, near_misses

    options = {
        "model": model,
        "device": "cpu" if cpu else None,
        "gpu_layers": gpu_layers,
        "dtype": "bfloat16" if bf16 else None,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "system_prompt": system,
    }
    given = {name for name, value in options.items() if value is not None}
    settings = load_settings(**options)  # before the slow imports, so that mistakes are reported at once
    for near_miss in near_misses():
        typer.echo(f"inhouse: {near_miss}", err=True)
    from bot.cli.chat import run_chat

    raise typer.Exit(run_chat(settings, given, once))


@app.command("init")
def _init(
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; tokens come from the environment or .env.")] = False,
    model: Annotated[
        str | None,
        typer.Option(help="The model, instead of the recommended one.", autocompletion=_catalog_names),
    ] = None,
    server: Annotated[str | None, typer.Option(metavar="URL", help="Use the models of this server.")] = None,
    discord: Annotated[bool | None, typer.Option("--discord/--no-discord", help="Set Discord up, or not.")] = None,
    slack: Annotated[bool | None, typer.Option("--slack/--no-slack", help="Set Slack up, or not.")] = None,
    pull: Annotated[bool | None, typer.Option("--pull/--no-pull", help="Download the model, or not.")] = None,
) -> None:
    """Set everything up step by step: model, tokens, .env."""
    from bot.setup.prompts import is_terminal

    if not yes and not is_terminal():
        _print_error(
            "inhouse: init asks its questions in a terminal: run it in one, or add --yes (`inhouse init --help`)."
        )
        raise typer.Exit(2)
    from bot.cli.init.wizard import Options, run_init

    raise typer.Exit(run_init(Options(yes, model, server, discord, slack, pull)))


@app.command("run")
def _run() -> None:
    """Serve Discord and Slack, whichever has its tokens set."""
    from bot.cli.run import adapters_for, run_platforms
    from bot.config.settings import load_settings

    settings = load_settings()
    run_platforms(settings, adapters_for(settings))


@app.command("doctor")
def _doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Check the settings and this machine, and suggest fixes."""
    from bot.cli.doctor import diagnose

    raise typer.Exit(diagnose(as_json=as_json))


@app.command("discord-invite")
def _discord_invite() -> None:
    """Print the bot's invite link and how to create the bot."""
    from adapters.discord.setup.invite import invitation
    from bot.config.settings import load_settings

    typer.echo(invitation(load_settings()))


@app.command("slack-manifest")
def _slack_manifest() -> None:
    """Print the Slack app's manifest; the steps go to stderr."""
    from adapters.slack.setup.manifest import manifest_text, steps
    from bot.config.settings import load_settings

    settings = load_settings()
    typer.echo(manifest_text(settings))
    typer.echo(steps(settings), err=True)


@app.command("models")
def _models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Describe this model only.", autocompletion=_catalog_names),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also show dtypes, licences and repositories.")] = False,
    fits: Annotated[bool, typer.Option("--fits", help="Rank what fits this machine, with the best engine.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """List the models: download, memory needed, and what fits. With a name, describe that model."""
    from bot.cli.model_commands import show_model, show_models
    from bot.cli.model_ranking import show_fits
    from bot.config.settings import load_settings

    settings = load_settings(model=name)
    if fits:
        show_fits(settings, json_only=as_json)
    elif name is None or settings.engine == "openai":
        show_models(settings, everything=everything, json_only=as_json)
    else:
        show_model(settings, json_only=as_json)


@app.command("pull")
def _pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Catalog name, org/name or org/name:Q4_K_M.", autocompletion=_catalog_names
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Download a model; shows its licence and size first."""
    from bot.cli.model_commands import pull_model
    from bot.config.settings import load_settings

    pull_model(load_settings(model=name), yes=yes)


@app.command("remove")
def _remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or org/name.", autocompletion=_installed_names)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a downloaded model; shows its size and asks first."""
    from bot.cli.model_commands import remove_model
    from bot.config.settings import load_settings

    remove_model(load_settings(model=name), yes=yes, default=load_settings().model)


@app.command("login")
def _login() -> None:
    """Store a Hugging Face token, for gated models."""
    from bot.cli.model_commands import log_in
    from bot.config.settings import load_settings

    log_in(load_settings())


@app.command("export")
def _export(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to this file instead of stdout.")] = None,
    conversation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE", help="Only this place: platform/workspace/channel/thread or a prefix; may be repeated."
        ),
    ] = None,
    person: Annotated[
        str | None, typer.Option(help="Only messages of discord:<id> or slack:<id>, with their answers.")
    ] = None,
    thoughts: Annotated[bool, typer.Option("--thoughts", help="Also what the model thought, kept for a day.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Export stored conversations as JSON lines."""
    from bot.cli.data_commands import export
    from bot.config.settings import load_settings

    export(load_settings(), out, conversation or (), person, thoughts=thoughts, force=force)


@app.command("backup")
def _backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Copy the database, also while it is in use."""
    from bot.cli.data_commands import backup
    from bot.config.settings import load_settings

    backup(load_settings(), file, force=force)


@database.command("copy")
def _copy() -> None:
    """Copy the conversations from the file to the PostgreSQL server of INHOUSE_DATABASE_URL."""
    from bot.cli.data_commands import copy_database
    from bot.config.settings import load_settings

    copy_database(load_settings())


@database.command("upgrade")
def _upgrade() -> None:
    """Migrate the tables to this version; makes a copy first."""
    from bot.cli.data_commands import upgrade_database
    from bot.config.settings import load_settings

    upgrade_database(load_settings())
