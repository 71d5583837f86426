"""Run `inhouse init`: model, Discord, Slack, then write `.env`, download the model, and say how to start.

Nothing is written before the last question about `.env`, so Ctrl-C leaves everything as it was. Exit status: 0; 1 if
the model could not be downloaded; 130 if it was interrupted.
"""

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bot.cli.init.model_step import choose_model
from bot.cli.init.platform_steps import set_up_discord, set_up_slack
from bot.cli.init.session import Session
from bot.cli.model_commands import fetch, offer
from bot.config.settings import Misconfigured, Settings, load_settings
from bot.models.catalog import Catalog
from bot.models.pull import installed, plan
from bot.setup.env_file import EnvFile
from bot.setup.prompts import Prompts
from bot.types.errors import ModelError

STEPS = 4
ENV_FILE = Path(".env")
SYSTEMD = Path("/run/systemd/system")
INSTALLER = Path(__file__).parents[3] / "systemd" / "install.sh"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line gives; None: ask, or decide where nothing is asked (--yes)."""

    yes: bool = False
    model: str | None = None
    server: str | None = None
    discord: bool | None = None
    slack: bool | None = None
    pull: bool | None = None


def run_init(options: Options) -> int:
    """Ask, check, write and download; return the exit status. Raises InhouseError."""
    console = Console(highlight=False)
    session = Session(console, Prompts(console, assume_yes=options.yes), EnvFile.read(ENV_FILE))
    state = "Nothing was changed."
    try:
        _greet(session)
        session.heading(1, STEPS, "The model")
        choose_model(session, options.model, options.server)
        session.heading(2, STEPS, "Discord")
        set_up_discord(session, options.discord)
        session.heading(3, STEPS, "Slack")
        set_up_slack(session, options.slack)
        session.heading(4, STEPS, "Write and start")
        if not _write(session):
            return 0
        state = ".env is complete; run `inhouse init` again to go on."
        ready = _download(session, options.pull)
    except (KeyboardInterrupt, EOFError):
        console.print()
        session.say(f"Stopped. {state}")
        return 130
    _next(session, session.settings(), ready=ready)
    return 0 if ready else 1


def _greet(session: Session) -> None:
    if not session.prompts.assume_yes:
        session.say(
            "This sets Inhouse up. Enter takes what stands in brackets, every step can be skipped, and Ctrl-C leaves "
            "without a change. Run it again at any time."
        )
    try:
        load_settings()
    except Misconfigured as error:
        session.say("The configuration has mistakes, which `inhouse doctor` explains:", "yellow")
        for mistake in error.mistakes:
            session.say(f"- {mistake}", "yellow")


def _write(session: Session) -> bool:
    """Show the changes of `.env` and write them; whether to go on."""
    env = session.env
    changes = env.changes(session.values)
    if not changes:
        session.say(f"{env.path.absolute()} stays as it is.")
        return True
    text = env.edited(session.values)
    session.say(f"{'Changes of' if env.text is not None else 'New file'} {env.path.absolute()}:")
    for change in changes:
        for line in change.lines():
            style = "red" if line.startswith("-") else "green"
            session.console.print(Text(f"  {line}", style=style), soft_wrap=True)
    if not session.prompts.confirm("Write it?", default=True):
        session.say("Nothing was changed.")
        return False
    backup = env.save(text, datetime.now())
    note = f"; the old one is {backup.name}" if backup else ""
    session.say(f"Written, readable by you only{note}.")
    for change in changes:
        if os.environ.get(change.name) not in (None, "", change.after):
            session.say(
                f"{change.name} is also set in the environment, which has precedence: unset it there.", "yellow"
            )
    return True


def _download(session: Session, wanted: bool | None) -> bool:
    """Download the model unless it is here; whether it is ready."""
    settings = session.settings()
    if settings.engine == "openai":
        return True
    catalog = Catalog.of(settings)
    spec = catalog.get(catalog.default)
    later = f"Without the model the bot does not start; `inhouse pull {spec.name}` downloads it."
    if installed(spec, settings) is not None:
        session.say(f"The model {spec.name} is downloaded.")
        return True
    if wanted is False:
        session.say(later)
        return True
    try:
        with session.console.status("asking for the model"):
            download = plan(spec, settings)
        session.say(offer(download))
        if not session.prompts.confirm("Download it now?", default=True):
            session.say(later)
            return True
        fetch(spec, settings, download, session.console)
    except ModelError as error:
        session.say(str(error), "red")
        session.say(later)
        return False
    session.say(f"{spec.name} is ready.")
    return True


def _next(session: Session, settings: Settings, *, ready: bool) -> None:
    """Print the command that starts the bot, and those that install it as a service."""
    command = _command()
    served = [
        *(["Discord"] if settings.discord_bot_token else []),
        *(["Slack"] if settings.slack_bot_token and settings.slack_app_token else []),
    ]
    session.console.print()
    if not served:
        session.say("No platform is set up yet. Talk to the model in this terminal:")
        session.copyable(f"{command} chat")
        return
    session.console.print(Text("Start it in this directory:" if ready else "After that, start it:", style="bold"))
    session.copyable(f"{command} run")
    session.say(f"and mention the bot on {' or '.join(served)}. `{command} doctor` finds what is wrong.")
    if SYSTEMD.is_dir() and INSTALLER.is_file():
        session.say("\nOr as a service that starts at boot (systemd/README.md):")
        session.copyable(f"sudo {_near(INSTALLER)}")
        session.copyable("sudo install -m 640 -g inhouse .env /etc/inhouse/.env")
        if settings.engine != "openai":
            session.copyable(f"sudo inhouse pull {shlex.quote(settings.model)}")
        session.copyable("sudo systemctl enable --now inhouse")


def _command() -> str:
    """How this program is called here: `inhouse` where the shell finds it, else its path."""
    own = Path(sys.prefix) / ("Scripts" if os.name == "nt" else "bin") / "inhouse"
    found = shutil.which("inhouse")
    return "inhouse" if found and Path(found).resolve() == own.resolve() else _near(own)


def _near(path: Path) -> str:
    """The path relative to the working directory if it is below it, quoted for the shell."""
    here = Path.cwd()
    text = str(path.relative_to(here) if path.is_relative_to(here) else path)
    return text if os.name == "nt" else shlex.quote(text)
