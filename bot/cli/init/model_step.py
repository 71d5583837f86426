"""The first step of `inhouse init`: a model on this machine that fits, or one on a server."""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rich.table import Table
from rich.text import Text

from bot.cli.doctor import quiet
from bot.cli.init.session import SKIP, Session, mistake_of
from bot.cli.model_ranking import INSTALLATION, chosen_engines, is_missing, rank_models
from bot.config.settings import Misconfigured, Settings
from bot.doctor.model_checks import existing
from bot.engine.remote.checks import servers
from bot.engine.remote.remote_engine import RemoteEngine
from bot.models.catalog import Catalog
from bot.models.decode_speed import speed
from bot.models.fit import Verdict
from bot.models.hardware import MB, Hardware, describe_hardware, probe
from bot.models.model_spec import ModelSpec
from bot.models.model_table import FIT_WORDS, STYLES, Row, best, human, shortage
from bot.models.ways import ENGINES, strength
from bot.setup.recommendation import Recommendation, fits_disk, recommend
from bot.types.errors import AdapterError, ConfigError, InhouseError, ModelError
from bot.types.findings import State

HERE, SERVER = "1", "2"
MOST_SHOWN = 20
"""Most models of a server that are listed."""


def choose_model(session: Session, model: str | None, server: str | None) -> None:
    """Choose where the model runs and which one. model, server: given on the command line, so not asked."""
    settings = session.settings()
    where = SERVER if server or (model is None and settings.engine == "openai") else HERE
    if not server and not session.prompts.assume_yes and model is None:
        session.say("Where does the model run?")
        session.say("  1  on this machine")
        session.say("  2  on a server that speaks OpenAI's API: vLLM, llama.cpp, SGLang, Ollama")
        where = _choice(session, "1, 2, or s to skip", where, (HERE, SERVER, *SKIP))
    if where in SKIP:
        session.say("Skipped: the model stays as it is.")
    elif where == SERVER:
        _on_server(session, settings, model, server)
    else:
        _on_this_machine(session, model)


def _choice(session: Session, question: str, default: str, valid: Sequence[str]) -> str:
    while (answer := session.prompts.line(question, default).lower()) not in valid:
        session.say(f"Answer one of {', '.join(valid)}.")
    return answer


def _on_this_machine(session: Session, model: str | None) -> None:
    settings = _local_settings(session)
    if model is not None:
        session.say(f"The model is {_spec(session, model).name}.")
    chosen = model or _recommended_or_asked(session, settings)
    if chosen is None:
        session.say("Skipped: the model stays as it is.")
        return
    if session.settings().engine == "openai":
        session.put("engine", "auto")
    if session.settings().engine == "auto" and _spec(session, chosen).gguf:
        session.say("It is a GGUF file, so llama.cpp runs it (INHOUSE_ENGINE=llama.cpp).")
        _use(session, "llama.cpp")
    session.put("model", chosen)


def _recommended_or_asked(session: Session, settings: Settings) -> str | None:
    """The name of the model, or None to skip. Raises ModelError with --yes if nothing fits."""
    free = disk_free()
    hardware = _hardware(session, settings)
    found: list[Row] = []
    advice = None
    if hardware is not None:
        engines = chosen_engines(session.settings())
        found = rank_models(settings, hardware, _usable(engines, settings, hardware))
        advice = recommend(found, hardware, free)
        _show(session, found, free)
        _explain(session, advice, hardware, settings)
        _mention_missing(session, settings, hardware, engines, advice)
    if not session.prompts.assume_yes:
        name = _ask(session, found, advice.row.spec.name if advice else settings.model, free, hardware)
    elif advice is None:
        raise ModelError("No model of the catalog fits this machine: name one with --model, or use --server.")
    else:
        name = advice.row.spec.name
    row = next((row for row in found if row.spec.name == name and row.way.usable), None)
    if row is not None and row.way.engine != settings.engine:
        _use(session, row.way.engine)
    return name


def _usable(engines: Sequence[str], settings: Settings, hardware: Hardware) -> tuple[str, ...]:
    """The engine of the settings, and those of `engines` that are installed; vLLM with a GPU only."""
    return tuple(
        engine
        for engine in engines
        if engine == settings.engine or not (is_missing(engine) or (engine == "vllm" and not hardware.gpu))
    )


def _mention_missing(
    session: Session,
    settings: Settings,
    hardware: Hardware,
    engines: Sequence[str],
    advice: Recommendation | None,
) -> None:
    """Say which better model would fit with an engine that is not installed."""
    possible = [engine for engine in engines if engine != "vllm" or hardware.gpu]
    row = best(rank_models(settings, hardware, possible), hardware)
    if row is None or not is_missing(row.way.engine) or (advice and strength(row.spec) <= strength(advice.row.spec)):
        return
    title, install = ENGINES[row.way.engine], INSTALLATION[row.way.engine]
    session.say(f"With {title}, which is not installed ({install}), {row.spec.name} would fit, a better model.", "dim")


def _hardware(session: Session, settings: Settings) -> Hardware | None:
    try:
        with session.console.status("looking at the hardware"):
            hardware = asyncio.run(probe(settings.device, settings.cache_dir, measure=True))
    except ModelError as error:
        session.say(f"The hardware could not be examined, so nothing can be recommended: {error}", "yellow")
        return None
    session.say(describe_hardware(hardware))
    return hardware


def _use(session: Session, engine: str) -> None:
    """Choose an engine whose server Inhouse runs; addresses of other servers contradict it."""
    if session.settings().engine_urls:
        session.put("engine_urls", "")
    session.put("engine", engine)


def disk_free() -> int:
    """Bytes that are free on the disk of the hub's cache."""
    from huggingface_hub import constants

    return shutil.disk_usage(existing(Path(constants.HF_HUB_CACHE))).free


def _show(session: Session, found: Sequence[Row], free: int) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("", "model", "with", "download", "needs", "tokens/s", "fits"):
        table.add_column(
            heading, justify="right" if heading in ("", "download", "needs", "tokens/s") else "left", overflow="fold"
        )
    for number, row in enumerate(found, 1):
        fits = Text(FIT_WORDS.get(row.fit.verdict, row.fit.words), style=STYLES[row.fit.verdict])
        marks = ("no disk" if not fits_disk(row, free) else "", row.spec.focus, "gated" if row.spec.gated else "")
        for mark in ("installed" if row.installed else "", *marks):
            fits.append(f", {mark}" if mark else "", style="")
        size = "-" if row.installed else human(row.spec.download, "B") if row.spec.download else "?"
        needs = human(row.fit.needed_mb * MB, "B") if row.fit.needed_mb else "?"
        pace = speed(row.way.tokens_s) if row.way.usable else "-"
        engine = ENGINES[row.way.engine] if row.way.usable else "-"
        table.add_row(str(number), row.spec.name, engine, size, needs, pace, fits)
    session.console.print()
    session.console.print(table)
    session.console.print()


def _explain(session: Session, advice: Recommendation | None, hardware: Hardware, settings: Settings) -> None:
    if advice is None:
        session.say("No model of the catalog fits this machine: free some memory or disk, or use a server.", "yellow")
        return
    row = advice.row
    pace = row.way.tokens_s
    facts = [
        "downloaded already" if row.installed else f"a download of {human(row.spec.download, 'B')}",
        f"{human(row.fit.needed_mb * MB, 'B')} of {'GPU memory' if hardware.gpu else 'RAM'}",
        *([f"about {speed(pace)} tokens/s"] if pace else []),
    ]
    engine = f" with {ENGINES[row.way.engine]}" if row.way.engine != "auto" else ""
    session.console.print(
        Text.assemble("Recommended: ", (row.spec.name, "bold green"), f"{engine} ({', '.join(facts)})")
    )
    session.say(f"Why: {advice.why}")
    if lacking := shortage(row, hardware, settings):
        session.say(lacking, "yellow")
    if pace:
        measured = f"{hardware.read_gb_s:,.0f}" if hardware.read_gb_s >= 10 else f"{hardware.read_gb_s:.1f}"
        session.say(f"Speeds are estimates for one conversation: {measured} GB/s were read just now.", "dim")


def _ask(session: Session, found: Sequence[Row], default: str, free: int, hardware: Hardware | None) -> str | None:
    """The name of the model, or None to skip."""
    session.say("A number, a name, org/name, org/name:Q4_K_M, a path, or s to skip.")
    while True:
        answer = session.prompts.line("Which model?", default)
        if answer.lower() in SKIP:
            return None
        if answer.isdecimal():
            if not 0 < int(answer) <= len(found):
                session.say(f"There are the numbers 1 to {len(found)}.")
                continue
            answer = found[int(answer) - 1].spec.name
        try:
            name = _spec(session, answer).name
        except ConfigError as error:
            session.say(str(error), "yellow")
            continue
        row = next((row for row in found if row.spec.name == name), None)
        if row is None or hardware is None or _accepted(session, row, free, hardware):
            return answer


def _local_settings(session: Session, **more: str) -> Settings:
    """The settings with an engine on this machine."""
    if session.settings().engine == "openai":
        return session.settings(engine="auto", **more)
    return session.settings(**more)


def _spec(session: Session, model: str) -> ModelSpec:
    """The model that a name, repository or path stands for. Raises ConfigError if there is none."""
    catalog = Catalog.of(_local_settings(session, model=model))
    return catalog.get(catalog.default)


def _accepted(session: Session, row: Row, free: int, hardware: Hardware) -> bool:
    """Whether the model fits, or the person wants it all the same."""
    doubts = []
    lacking = shortage(row, hardware, _local_settings(session))
    if row.fit.verdict not in (Verdict.FITS, Verdict.UNKNOWN):
        doubts.append(lacking or row.fit.sentence)
    elif lacking:
        session.say(lacking, "yellow")
    if not fits_disk(row, free):
        doubts.append(
            f"Its download of {human(row.spec.download, 'B')} does not fit on the disk, which has {human(free, 'B')} "
            "left: make room, or set HF_HOME to a directory on a larger disk."
        )
    if row.spec.gated and not row.installed:
        doubts.append(f"It is gated: accept its licence at {row.spec.licence_url}, then run `inhouse login`.")
    for doubt in doubts:
        session.say(doubt, "yellow")
    return not doubts or session.prompts.confirm(f"Use {row.spec.name} all the same?", default=False)


def _on_server(session: Session, settings: Settings, model: str | None, server: str | None) -> None:
    """Choose servers and one of their models, checked live."""
    key = ""
    if not server:
        session.say("Such as http://gpu1:8000/v1, several with commas, or s to skip.")
    while True:
        urls = server or session.prompts.line("Address", ",".join(settings.engine_urls))
        if not urls or urls.lower() in SKIP:
            session.say("Skipped: the model stays as it is.")
            return
        typed, urls = urls, completed(urls)
        if urls != typed:
            session.say(f"Taken as {urls}")
        try:
            given = {"engine": "openai", "engine_urls": urls, "model": model or settings.model}
            tried = session.settings(**given, **({"engine_key": key} if key else {}))
        except Misconfigured as error:
            problem, refused = mistake_of(error, "engine_urls"), False
        else:
            offered, problem, refused = _offered(session, tried)
            if offered:
                break
        if session.prompts.assume_yes:
            raise AdapterError(f"{problem.rstrip('.')}: check --server, and that the server runs.")
        session.say(problem, "yellow")
        key = (
            refused and session.prompts.secret("The server's key (not shown; Enter asks for the address again)")
        ) or ""
        server = urls if key else None
    chosen = _served_model(session, offered, model or (settings.model if settings.engine == "openai" else ""))
    tried = session.settings(**given | {"model": chosen}, **({"engine_key": key} if key else {}))
    findings = session.check("the server", lambda: servers(tried))
    session.show("Checked", findings, tried)
    wrong = next((finding for finding in findings if finding.state is State.WRONG), None)
    if wrong is not None and session.prompts.assume_yes:
        raise AdapterError(f"{wrong.check}: {wrong.found}. {wrong.fix}")
    if wrong is not None and not session.prompts.confirm("Keep it all the same?", default=False):
        session.say("Skipped: the model stays as it is.")
        return
    for name, value in {**given, "model": chosen, **({"engine_key": key} if key else {})}.items():
        session.put(name, value)


def completed(urls: str) -> str:
    """Complete the addresses of servers, such as 'gpu1:8000, http://gpu2:8000', to the bases of their APIs."""
    parts = (part.strip() for part in urls.split(","))
    whole = (part if "://" in part else f"http://{part}" for part in parts if part)
    try:
        return ",".join(url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}/v1" for url in whole)
    except ValueError:  # brackets that hold no IPv6 address; the settings say what is wrong
        return urls


def _offered(session: Session, settings: Settings) -> tuple[list[str], str, bool]:
    """The models that the servers offer; else what is wrong, and whether a server refuses the key."""

    async def ask() -> tuple[list[str], str, bool]:
        pool = RemoteEngine.of(settings).pool
        try:
            await pool.open()
            await pool.probe()
            offered = {model for server in pool.servers if not server.problem for model in server.models}
            problems = [f"{server.name}: {server.problem or 'it offers no models'}" for server in pool.servers]
            return sorted(offered), "; ".join(problems), any(server.key_refused for server in pool.servers)
        finally:
            await pool.close()

    try:
        with session.console.status("asking the server"), quiet():
            return asyncio.run(ask())
    except InhouseError as error:
        return [], str(error), False


def _served_model(session: Session, offered: Sequence[str], wanted: str) -> str:
    default = wanted if wanted in offered else offered[0]
    if session.prompts.assume_yes:
        return wanted or default
    shown = offered[:MOST_SHOWN]
    for number, model in enumerate(shown, 1):
        session.say(f"  {number}  {model}")
    if len(offered) > len(shown):
        session.say(f"  and {len(offered) - len(shown)} more")
    while True:
        answer = session.prompts.line("Which model? A number or a name", default)
        if answer.isdecimal() and 0 < int(answer) <= len(shown):
            return shown[int(answer) - 1]
        if answer in offered:
            return answer
        session.say(f"No server offers {answer}.")
