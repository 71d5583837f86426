"""Locate installed models for the service and estimate whether a model fits, without importing torch."""

import asyncio
import contextlib
import logging
from dataclasses import replace

from bot.models.fit import Fit, fits
from bot.models.hardware import Hardware, probe
from bot.models.model_directory import sees
from bot.models.model_files import described
from bot.models.model_spec import ModelSpec
from bot.models.pull import installed
from bot.models.runtime_config import RuntimeConfig
from bot.models.served_tokenizer import find_tokenizer
from bot.models.ways import place, way
from bot.types.engine import ModelSource
from bot.types.errors import ModelError

log = logging.getLogger(__name__)

LIST_EVERY_S = 10.0
"""Interval at which the models that can be located are listed."""


class InstalledModels:
    """The installed models. `hardware` is None until `look` has probed it."""

    def __init__(self, current: RuntimeConfig) -> None:
        self._current = current
        self.hardware: Hardware | None = None
        self._described: dict[str, ModelSpec] = {}
        self.usable: tuple[str, ...] = ()
        """The names that people may switch to whose models can be located, as of the last look of `keep_listed`."""

    async def keep_listed(self) -> None:
        """Keep `usable` up to date, until cancelled."""
        while True:
            self.usable = await asyncio.to_thread(self._usable)
            await asyncio.sleep(LIST_EVERY_S)

    def _usable(self) -> tuple[str, ...]:
        found = []
        for name in self._current.catalog.names:
            with contextlib.suppress(ModelError):
                found.append(self.locate(name).name)
        return tuple(found)

    async def look(self, loaded_mb: int) -> None:
        """Probe the hardware. loaded_mb: memory of the loaded model, counted as free since a switch releases it.

        Logs a warning and leaves `hardware` unchanged if the probe fails.
        """
        if self._served:
            return
        try:
            found = await probe(self._current.settings.device, self._current.settings.cache_dir, measure=True)
        except ModelError as error:
            log.warning("%s", error)
            return
        self._described = await asyncio.to_thread(self._describe)
        if found.gpu and self._current.settings.gpu_layers != 0:
            self.hardware = replace(found, vram_free_mb=found.vram_free_mb + loaded_mb)
        else:
            self.hardware = replace(found, ram_free_mb=found.ram_free_mb + loaded_mb)

    def has(self, name: str) -> bool:
        """Whether a model is complete on this disk."""
        return self._served or installed(self._current.catalog.get(name), self._current.settings) is not None

    def seeing(self, but: str) -> str:
        """Name of an installed model other than `but` that people may switch to and that sees; '' if there is none."""
        catalog, settings = self._current.catalog, self._current.settings
        for name in catalog.names:
            folder = installed(catalog.get(name), settings) if name != but else None
            with contextlib.suppress(ModelError):
                if folder is not None and sees(folder):
                    return name
        return ""

    @property
    def _served(self) -> bool:
        """Whether servers run the models; nothing of them is on this machine."""
        settings = self._current.settings
        return settings.engine == "openai" or "worker" not in settings.roles

    def fit(self, name: str) -> Fit | None:
        """Estimate whether a model fits as the only loaded one; None before the hardware is known."""
        if self.hardware is None:
            return None
        settings, spec = self._current.settings, self._current.catalog.get(name)
        return fits(
            self._described.get(spec.source, spec),
            self.hardware,
            settings.dtype,
            settings.quantization,
            settings.gpu_layers,
            settings.kv_cache_mb,
            settings.engine,
        )

    def ranked(self) -> list[str]:
        """The names that people may switch to, in the order of `inhouse models --fits`; sorted before `look`."""
        catalog, settings = self._current.catalog, self._current.settings
        if self.hardware is None:
            return list(catalog.names)
        hardware = self.hardware.idle

        def key(name: str) -> tuple[float, ...]:
            spec = catalog.get(name)
            found = way(self._described.get(spec.source, spec), hardware, settings, settings.engine)
            return place(found, hardware, installed=not spec.gated or self.has(name))

        return sorted(catalog.names, key=key)

    def _describe(self) -> dict[str, ModelSpec]:
        """Installed models of unknown size, by their source, with the facts of their files. Blocks."""
        settings, catalog = self._current.settings, self._current.catalog
        specs = [spec for name in catalog.names if not (spec := catalog.get(name)).parameters]
        return {spec.source: described(spec, installed(spec, settings)) for spec in specs}

    def locate(self, name: str) -> ModelSource:
        """Return the source of an installed model, with the current settings.

        Raises ModelError, with the command that downloads the model, if it is not installed.
        """
        spec, settings = self._current.catalog.get(name), self._current.settings
        if self._served:
            found = find_tokenizer(spec.repo, settings)
            if found is None:
                return ModelSource(spec.name, spec.repo, context_window=spec.context_window)
            return ModelSource(
                name=spec.name,
                path=spec.repo,
                template=found.template,
                stop=found.stop,
                context_window=spec.context_window,
                tokenizer=str(found.folder),
            )
        folder = installed(spec, settings)
        if spec.gguf and settings.engine == "auto":
            raise ModelError(f"{spec.name} is a GGUF file, which llama.cpp runs: set INHOUSE_ENGINE=llama.cpp.")
        if folder is None:
            raise ModelError(f"{spec.name} is not downloaded yet; run `inhouse pull {spec.name}`.")
        return ModelSource(
            name=spec.name,
            path=str(folder),
            template=spec.template,
            stop=spec.stop,
            context_window=spec.context_window,
            device=settings.device,
            dtype=settings.dtype,
            gpu_layers=settings.gpu_layers,
            quantization=settings.quantization,
            kv_cache_mb=settings.kv_cache_mb,
            kv_offload_mb=settings.kv_offload_mb,
            gpu_batch=settings.gpu_batch,
            cache_dir=str(settings.cache_dir),
        )
