"""The models of this machine, as the service sees them: which are here, where, and whether they fit.

In: what is configured now. Out: a ModelSource for the engine, and verdicts from memory, without torch.
"""

import logging
from dataclasses import replace

from bot.models.fit import Fit, fits
from bot.models.hardware import Hardware, probe
from bot.models.pull import installed
from bot.models.runtime_config import Current
from bot.types.engine import ModelSource
from bot.types.errors import ModelError

log = logging.getLogger(__name__)


class Shelf:
    """Finds models on this disk and tells whether one would fit. `hardware` is None until `look` has seen it."""

    def __init__(self, current: Current) -> None:
        self._current = current
        self.hardware: Hardware | None = None

    async def look(self, loaded_mb: int) -> None:
        """See what this machine has; `loaded_mb` of its memory are taken by a model of ours, which would make room."""
        try:
            found = await probe(self._current.settings.device)
        except ModelError as error:
            log.warning("%s", error)
            return
        if found.gpu and self._current.settings.gpu_layers != 0:
            self.hardware = replace(found, vram_free_mb=found.vram_free_mb + loaded_mb)
        else:
            self.hardware = replace(found, ram_free_mb=found.ram_free_mb + loaded_mb)

    def has(self, name: str) -> bool:
        """Whether a model lies on this disk, whole."""
        return installed(self._current.catalog.get(name), self._current.settings) is not None

    def fit(self, name: str) -> Fit | None:
        """Whether a model would fit if it were the only one; None before the hardware is known."""
        if self.hardware is None:
            return None
        settings = self._current.settings
        return fits(
            self._current.catalog.get(name),
            self.hardware,
            settings.dtype,
            settings.quantization,
            settings.gpu_layers,
            settings.kv_cache_mb,
        )

    def locate(self, name: str) -> ModelSource:
        """A model on this disk, to be loaded as the settings say. Raises ModelError that names how to fetch it."""
        spec, settings = self._current.catalog.get(name), self._current.settings
        folder = installed(spec, settings)
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
        )
