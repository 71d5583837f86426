"""The command line: `inhouse chat | run | doctor | slack-manifest | discord-invite | models | pull | login | export |
backup | db upgrade`.

In: arguments. Out: an exit status: 0 done, 1 failed, 78 (EX_CONFIG) a mistake of whoever called, 130 interrupted.
What failed is one sentence on stderr, never a traceback. Only what a command needs is imported, when it runs.
"""

import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from bot.errors import EX_CONFIG, ConfigError, InhouseError

logging.getLogger("dotenv").setLevel(logging.ERROR)  # a line that it cannot read is told as a mistake of the settings

app = typer.Typer(name="inhouse", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
database = typer.Typer(help="Work on the database.", rich_markup_mode=None)
app.add_typer(database, name="db")


def main() -> None:
    """Run the command of this process's arguments, and end the process."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # the hub's library tells the hub about this machine otherwise
    try:
        if sys.argv[1:2] != ["doctor"]:  # which says it among other things
            check_packages()
        status = app(standalone_mode=False, prog_name="inhouse") or 0
    except (typer.TyperException, InhouseError) as error:
        mistake = isinstance(error, (typer.TyperException, ConfigError))
        sentence = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        _tell(f"inhouse: {sentence}")
        status = EX_CONFIG if mistake else 1
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    sys.exit(status)


def _tell(sentence: str) -> None:
    """Print why the command failed, to a person or into the journal."""
    from bot.journal import leads_to_journal, prefixed

    typer.echo(prefixed(sentence, logging.ERROR) if leads_to_journal(sys.stderr) else sentence, err=True)


def check_packages() -> None:
    """Raise ConfigError if Python would import another `adapters` than ours: the name is a common one."""
    ours = Path(__file__).parents[2]
    found = importlib.util.find_spec("adapters")
    if found is None or found.origin is None or Path(found.origin).parents[1] != ours:
        where = found.origin if found and found.origin else "nowhere"
        raise ConfigError(
            f"The package 'adapters' beside {ours / 'bot'} is ours, but Python found {where}: "
            "install Inhouse in a virtual environment of its own."
        )


def _show_version(wanted: bool) -> None:
    if wanted:
        from bot.cli.version import version

        typer.echo(f"inhouse {version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _inhouse(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """A chat bot for Discord and Slack that answers with a language model of your own."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("chat")
def _chat(
    model: Annotated[str | None, typer.Option(help="Catalog name, org/name or directory of a model.")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Leave the GPU alone.")] = False,
    gpu_layers: Annotated[int | None, typer.Option(help="Layers to keep on the GPU, the rest on the CPU.")] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")] = False,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest word; up to 2.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="The most tokens that an answer may have.")] = None,
    system: Annotated[str | None, typer.Option(help="Instructions that the model gets first.")] = None,
    once: Annotated[str | None, typer.Option(metavar="QUESTION", help="Print the answer to this, and end.")] = None,
) -> None:
    """Talk with the model; each line of a pipe is a question."""
    from bot.config import load_settings

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
    settings = load_settings(**options)  # a mistake in them is told at once, before anything slow
    from bot.cli.chat import run_chat

    raise typer.Exit(run_chat(settings, given, once))


@app.command("run")
def _run() -> None:
    """Serve the platforms whose tokens are set."""
    from bot.cli.run import adapters_for, run_platforms
    from bot.config import load_settings

    settings = load_settings()
    run_platforms(settings, adapters_for(settings))


@app.command("doctor")
def _doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects, and nothing else.")] = False,
) -> None:
    """Look for what may be wrong, and say how to fix it."""
    from bot.cli.doctor import diagnose

    raise typer.Exit(diagnose(as_json=as_json))


@app.command("discord-invite")
def _discord_invite() -> None:
    """Print the link that invites the bot to a server, and what to click before."""
    from adapters.discord.invite import invitation
    from bot.config import load_settings

    typer.echo(invitation(load_settings()))


@app.command("slack-manifest")
def _slack_manifest() -> None:
    """Print the manifest that makes the Slack app, and on stderr what to do with it."""
    import json

    from adapters.slack.manifest import manifest, steps
    from bot.config import load_settings

    settings = load_settings()
    typer.echo(json.dumps(manifest(settings), ensure_ascii=False, indent=2))
    typer.echo(steps(settings), err=True)


@app.command("models")
def _models() -> None:
    """List the models: memory needed, and what fits here."""
    from bot.cli.models import show_models
    from bot.config import load_settings

    show_models(load_settings())


@app.command("pull")
def _pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Catalog name, org/name or directory of a model.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Fetch a model; its licence and size are shown first."""
    from bot.cli.models import pull_model
    from bot.config import load_settings

    pull_model(load_settings(model=name), yes=yes)


@app.command("login")
def _login() -> None:
    """Store a token of the Hugging Face hub, for gated models."""
    from bot.cli.models import log_in
    from bot.config import load_settings

    log_in(load_settings())


@app.command("export")
def _export(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write into this file, not to stdout.")] = None,
    conversation: Annotated[
        list[str] | None,
        typer.Option(metavar="PLACE", help="Only these: platform/workspace/channel/thread, or the beginning of it."),
    ] = None,
    person: Annotated[str | None, typer.Option(help="Only what discord:<id> or slack:<id> said and got.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Print what is stored of conversations, as JSON lines."""
    from bot.cli.keeping import export
    from bot.config import load_settings

    export(load_settings(), out, conversation or (), person, force=force)


@app.command("backup")
def _backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to make.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Copy the database, also while it is in use."""
    from bot.cli.keeping import backup
    from bot.config import load_settings

    backup(load_settings(), file, force=force)


@database.command("upgrade")
def _upgrade() -> None:
    """Bring the tables up to date, with a copy made first."""
    from bot.cli.keeping import upgrade_database
    from bot.config import load_settings

    upgrade_database(load_settings())
