"""Check the catalog, and that the configured models are installed, undamaged and fit this machine.

The configured models are INHOUSE_MODEL and those in INHOUSE_MODELS; of the rest of the catalog, only the installed ones
are listed. Loads, downloads and changes nothing.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bot.config.settings import Settings
from bot.doctor.check_runner import Findings, in_daemon_thread
from bot.doctor.machine_checks import TorchProbeCache
from bot.models import model_directory, model_files
from bot.models.catalog import Catalog
from bot.models.fit import Verdict, fits
from bot.models.gguf_header import read_gguf
from bot.models.gguf_names import parts_of
from bot.models.hardware import Hardware
from bot.models.hub_client import SPARE_BYTES, Hub
from bot.models.model_files import described, is_file
from bot.models.model_spec import ModelSpec
from bot.models.model_table import human
from bot.models.pull import installed
from bot.models.safetensors_header import read_tensors
from bot.types.errors import ConfigError, ModelError
from bot.types.findings import Finding, State, from_error, ok, warning, wrong


def configured_models(settings: Settings) -> list[ModelSpec]:
    """The configured models, the default first. Raises ConfigError."""
    catalog = Catalog.of(settings)
    names = [catalog.default, *(catalog.names if settings.models else ())]
    return [catalog.get(name) for name in dict.fromkeys(names)]


def catalog(settings: Settings) -> Iterator[Finding]:
    """Check the configured names and the catalog file, and list the installed models."""
    try:
        made = Catalog.of(settings)
    except ConfigError as error:
        for line in str(error).splitlines():
            yield from_error("catalog", State.WRONG, line.strip())
        return
    here = [spec.name for spec in made if installed(spec, settings)]
    yield ok("catalog", f"{len(list(made))} models; downloaded: {', '.join(here) or 'none'}")


def cached(settings: Settings, *, serving: bool) -> Iterator[Finding]:
    """Check that the configured models are installed and undamaged.

    serving: a platform's token is set; then a missing default model is an error instead of a warning.
    """
    for spec in _configured_or_none(settings):
        default = spec.name == _configured_or_none(settings)[0].name
        yield _installed_finding(spec, settings, State.WRONG if default and serving else State.WARNING)


def _installed_finding(spec: ModelSpec, settings: Settings, otherwise: State) -> Finding:
    check = f"model {spec.name}"
    folder = installed(spec, settings)
    if folder is None:
        parts = "".join(f"; {_missing_files(each)}" for each in Hub(settings).candidates(spec)[:1]) if spec.repo else ""
        return Finding(check, otherwise, f"not downloaded{parts}", f"Run `inhouse pull {spec.name}`.")
    if damage := damage_of(folder):
        fix = f"Copy it to {folder} again."
        if spec.repo:
            fix = f"Run `inhouse remove {spec.name}`, then `inhouse pull {spec.name}`."
        return Finding(check, otherwise, f"damaged: {damage}", fix)
    if settings.engine == "auto" and not is_file(folder) and model_directory.lacks_picture_files(folder):
        fix = f"Copy one of {', '.join(model_directory.PICTURE_FILES)} to {folder}."
        if spec.repo:
            fix = f"Run `inhouse remove {spec.name}`, then `inhouse pull {spec.name}`."
        return warning(check, "downloaded without its files for pictures, so it reads text only", fix)
    files = parts_of(folder) if is_file(folder) else [folder / name for name in model_directory.weight_files(folder)]
    return ok(check, f"downloaded, {human(sum(file.stat().st_size for file in files), 'B')} in {folder}")


def damage_of(folder: Path) -> str:
    """Describe damage in the files of a model, '' if none is found. Checks headers and file lengths, not weights."""
    try:
        if is_file(folder):
            read_gguf(folder)
            return ""
        model_directory.read_json(folder / model_directory.CONFIG)
        if (folder / "tokenizer.json").is_file():
            model_directory.read_json(folder / "tokenizer.json")
    except ModelError as error:
        return re.split("[:;] ", str(error).rstrip("."))[0]
    for name in model_directory.weight_files(folder):
        try:
            read_tensors(folder / name)
        except ModelError as error:
            return str(error).rstrip(".")
    return ""


def disk(settings: Settings) -> Iterator[Finding]:
    """Check that the configured models that are not installed fit on the disk of the hub's cache."""
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE)
    needed = sum(spec.download for spec in _configured_or_none(settings) if not installed(spec, settings))
    free = shutil.disk_usage(existing(place)).free
    found = f"{human(free, 'B')} free in {place}"
    if free < needed + SPARE_BYTES:
        found += f", and {human(needed, 'B')} of models still to download" if needed else ""
        yield warning("disk of models", found, "Free some space, or set HF_HOME to a directory on a larger disk.")
    else:
        yield ok("disk of models", found)


async def fit(settings: Settings, probe: TorchProbeCache, *, running: bool) -> Findings:
    """Check that the configured models fit into memory.

    running: an Inhouse uses this state directory, so memory in use is counted as available.
    """
    hardware = (await probe.torch()).hardware
    if hardware is None:
        return
    if settings.device == "cpu":
        hardware = replace(hardware, gpu="")
    for number, spec in enumerate(await in_daemon_thread(lambda: _configured_or_none(settings))):
        yield _fit_finding(spec, settings, hardware, running=running, default=number == 0)


def _fit_finding(spec: ModelSpec, settings: Settings, hardware: Hardware, *, running: bool, default: bool) -> Finding:
    machine = with_all_memory_free(hardware) if running else hardware
    spec = described(spec, installed(spec, settings))
    found = fits(
        spec,
        machine,
        settings.dtype,
        settings.quantization,
        settings.gpu_layers,
        settings.kv_cache_mb,
        settings.engine,
    )
    check, sentence = f"fit of {spec.name}", found.sentence.rstrip(".")
    if running and found.verdict in (Verdict.FITS, Verdict.TIGHT):
        all_of_it = f"of {found.available_mb:,} MB, part of which the running Inhouse uses"
        sentence = f"{sentence.partition(';')[0]}, {all_of_it}"
    if found.verdict in (Verdict.FITS, Verdict.UNKNOWN):
        return ok(check, sentence)
    if found.verdict is Verdict.NEEDS:
        sentence, fix = re.split("[:.] ", found.sentence, maxsplit=1)
        return (wrong if default else warning)(check, sentence, fix[:1].upper() + fix[1:])
    if found.verdict is Verdict.TIGHT:
        return warning(check, sentence, "Free some memory, or choose a smaller model (`inhouse models`).")
    smaller = "INHOUSE_QUANTIZATION=4bit or INHOUSE_GPU_LAYERS may make it fit" if hardware.gpu else "a GPU may hold it"
    fix = f"Choose a smaller model (`inhouse models`); {smaller}."
    return (wrong if default else warning)(check, sentence, fix)


def with_all_memory_free(hardware: Hardware) -> Hardware:
    """The same hardware with all of its memory free."""
    return replace(hardware, vram_free_mb=hardware.vram_total_mb, ram_free_mb=hardware.ram_total_mb)


def existing(path: Path) -> Path:
    """The path itself if it exists, else its nearest existing parent."""
    return next(each for each in (path, *path.parents) if each.exists())


def _configured_or_none(settings: Settings) -> list[ModelSpec]:
    """Like `configured_models`, but empty if the names have mistakes, which `catalog` reports."""
    try:
        return configured_models(settings)
    except ConfigError:
        return []


def _missing_files(folder: Path) -> str:
    try:
        model_files.check(folder)
    except ModelError as error:
        return str(error).rstrip(".")
    return ""
