"""The second and third step of `inhouse init`: Discord and Slack, with tokens that are checked as they are pasted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapters.discord.error_mapping import PORTAL
from adapters.discord.setup import checks as discord_checks
from adapters.discord.setup.invite import invite_link
from adapters.slack.setup import checks as slack_checks
from adapters.slack.setup.manifest import APP_TOKEN_SCOPE, NAME, create_page, manifest_text
from bot.cli.init.session import SKIP, Session, mistake_of
from bot.cli.run import SLACK_TOKENS
from bot.config.settings import TOKENS, Misconfigured, Settings
from bot.doctor.check_runner import Findings
from bot.types.errors import AdapterError, ConfigError, InhouseError
from bot.types.findings import Finding, State

Wanted = bool | None
"""Whether a platform is to be served; None: ask, or as its tokens are set."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What the questions about a platform's tokens need. hidden: findings that a first setup does not need."""

    title: str
    examine: Callable[[Settings], Findings]
    hidden: frozenset[str]


DISCORD = Platform("Discord", discord_checks.examine, frozenset({"slash commands"}))
SLACK = Platform("Slack", slack_checks.examine, frozenset({"Slack events"}))


def set_up_discord(session: Session, wanted: Wanted) -> None:
    """Ask for the token, check it, the intent and the servers, and print the invite link."""
    if not _serve(session, DISCORD, ("discord_bot_token",), wanted):
        return
    if session.settings().discord_bot_token is None:
        session.say("1. Make an application here ('New Application'):")
        session.link(PORTAL)
        session.say("2. On its page 'Bot', switch on 'Message Content Intent' and save.")
        session.say("3. On the same page press 'Reset Token', and copy the token.")
    findings = _token(session, DISCORD, "discord_bot_token", frozenset())
    if findings is None:
        return
    findings = _until(session, DISCORD, findings, "Discord intents", lambda: "Switch it on and save")
    _until(session, DISCORD, findings, "Discord servers", lambda: _invite(session))


def set_up_slack(session: Session, wanted: Wanted) -> None:
    """Print the manifest, ask for both tokens, and check them and the scopes."""
    if not _serve(session, SLACK, ("slack_bot_token", "slack_app_token"), wanted):
        return
    settings = session.settings()
    if settings.slack_bot_token is None:
        session.say("The manifest of the app (`inhouse slack-manifest` prints it again):\n")
        session.console.print(manifest_text(settings), markup=False, soft_wrap=True)
        session.say("\n1. Open this page, choose 'From a manifest' and your workspace, and paste the manifest as JSON:")
        session.link(create_page(), filled=create_page(settings))
        session.say("2. On the page 'Install App' install it, and copy the bot token (xoxb-...).")
    if _token(session, SLACK, "slack_bot_token", frozenset({"Slack app token", "Slack app", "Slack scopes"})) is None:
        return
    if session.settings().slack_app_token is None:
        session.say(
            "3. On the page 'Basic Information', under 'App-Level Tokens', generate a token with the scope "
            f"{APP_TOKEN_SCOPE}, and copy it (xapp-...)."
        )
    findings = _token(session, SLACK, "slack_app_token", frozenset())
    if findings is None:
        session.say("Slack needs both tokens: it is not served until SLACK_APP_TOKEN is set.", "yellow")
        return
    _until(session, SLACK, findings, "Slack scopes", lambda: "Add what is missing, install the app again")
    session.say(f"In a channel, write '/invite @{NAME}' to bring the bot in.")


def _serve(session: Session, platform: Platform, fields: Sequence[str], wanted: Wanted) -> bool:
    """Whether to set the platform up. Raises ConfigError if --yes says so and a token is missing."""
    settings = session.settings()
    there = [name for name in fields if getattr(settings, name) is not None]
    if wanted is None:
        wanted = (
            bool(there)
            if session.prompts.assume_yes
            else session.prompts.confirm(
                f"Serve {platform.title}?{' Its tokens are set.' if len(there) == len(fields) else ''}",
                default=True,
            )
        )
    if not wanted:
        session.say(f"Skipped: {platform.title} stays as it is.")
        return False
    lacking = [TOKENS[name] for name in fields if name not in there]
    if lacking and session.prompts.assume_yes:
        raise ConfigError(f"{platform.title} needs {' and '.join(lacking)}: set that in the environment or in .env.")
    return True


def _token(session: Session, platform: Platform, name: str, later: frozenset[str]) -> list[Finding] | None:
    """Check the token that is set, or ask for it until it is accepted; None if it is skipped.

    name: the setting. later: checks whose failure is not about this token.
    """
    variable, title = TOKENS[name], platform.title
    was_set = getattr(session.settings(), name) is not None
    pasted = None if was_set else _paste(session, variable, title)
    while was_set or pasted is not None:
        try:
            settings = session.settings(**{name: pasted})
        except Misconfigured as error:
            session.say(mistake_of(error, name), "yellow")
            was_set, pasted = False, _paste(session, variable, title)
            continue
        findings = [each for each in _findings(session, platform, settings) if each.check not in later]
        session.show("Checked", findings, settings)
        wrong = next((finding for finding in findings if finding.state is State.WRONG), None)
        if wrong is not None and session.prompts.assume_yes:
            raise AdapterError(f"{wrong.check}: {wrong.found.rstrip('.')}. {wrong.fix}")
        if wrong is not None:
            answer = session.prompts.line(f"Enter: paste another; r: check again; k: keep it; s: skip {title}").lower()
            if answer == "r":
                continue
            if answer in SKIP:
                break
            if answer != "k":
                was_set, pasted = False, _paste(session, variable, title)
                continue
        token = getattr(settings, name).get_secret_value()
        if pasted is not None or session.prompts.assume_yes or _only_here(session, variable, token):
            session.put(name, token)
        return findings
    session.say(f"Skipped: {title} stays as it is.")
    return None


def _only_here(session: Session, variable: str, token: str) -> bool:
    """Whether the token is missing in `.env`, and the person wants it there."""
    if session.env.values().get(variable) == token:
        return False
    question = f"{variable} comes from the environment. Write it to .env, too?"
    return session.prompts.confirm(question, default=True)


def _paste(session: Session, variable: str, title: str) -> str | None:
    """A token that begins as it should, or None to skip."""
    kind, begins = SLACK_TOKENS.get(variable, ("token", ""))
    question = f"Paste the {kind}{f' ({begins}...)' if begins else ''}; it is not shown, Enter skips {title}"
    while token := session.prompts.secret(question):
        token = token.removeprefix(f"{variable}=").removeprefix("Bot ").strip(" \t'\"")
        other = next(
            (name for name, (_, mark) in SLACK_TOKENS.items() if mark != begins and token.startswith(mark)), ""
        )
        if token.startswith(begins) and not other:
            return token
        what = (
            f"the {SLACK_TOKENS[other][0]} of Slack ({SLACK_TOKENS[other][1]}...)" if other else "another kind of text"
        )
        session.say(f"That is {what}; this asks for the {kind}{f', which begins with {begins}' if begins else ''}.")
    return None


def _until(
    session: Session, platform: Platform, findings: list[Finding], check: str, advise: Callable[[], str]
) -> list[Finding]:
    """Repeat the checks while one of them has a warning and the person wants to mend it."""
    while any(finding.check == check and finding.state is State.WARNING for finding in findings):
        advice = advise()
        if session.prompts.assume_yes:
            break
        answer = session.prompts.line(f"{advice}, then press Enter (s: skip)")
        if answer.lower() in SKIP:
            break
        settings = session.settings()
        findings = _findings(session, platform, settings)
        session.show("Checked", [finding for finding in findings if finding.check == check] or findings, settings)
    return findings


def _invite(session: Session) -> str:
    try:
        link = invite_link(session.settings())
    except InhouseError as error:
        session.say(str(error), "yellow")
    else:
        session.say("This link adds the bot to your server:")
        session.link(link)
    return "Choose your server and press 'Authorize'"


def _findings(session: Session, platform: Platform, settings: Settings) -> list[Finding]:
    found = session.check(platform.title, lambda: platform.examine(settings))
    return [finding for finding in found if finding.check not in platform.hidden]
