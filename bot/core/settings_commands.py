"""The commands that show and change settings: /model, /temperature, /top_p, /max_tokens, /think, /system,
/settings.

A setting belongs to the channel or thread where it was set; a thread's setting overrides the channel's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bot.config.settings import variable
from bot.conversations.conversations import Conversations
from bot.generation.model_loader import Loader
from bot.models.fit import Verdict
from bot.models.installed_models import InstalledModels
from bot.models.runtime_config import RuntimeConfig
from bot.models.sampling_defaults import CATALOG_SOURCE, DEFAULTS
from bot.storage import Storage
from bot.types.display_names import as_code
from bot.types.engine import Capabilities
from bot.types.errors import ModelError, RequestRefused
from bot.types.messages import Choice, IncomingCommand, Notice, Outcome

CLEAR = "clear"
ALWAYS_SHOWN = ("temperature", "top_p", "repetition_penalty")
"""Sampling parameters that /settings shows even if they are off."""
DEFAULT = "as the model does by default"
"""How much a model thinks that was not told."""


class SettingsCommands:
    """Handles the commands that show and change settings."""

    def __init__(
        self,
        config: RuntimeConfig,
        storage: Storage,
        conversations: Conversations,
        installed_models: InstalledModels,
        loader: Loader,
    ) -> None:
        self._loader = loader
        self._config, self._storage = config, storage
        self._conversations, self._installed_models = conversations, installed_models

    async def number(self, event: IncomingCommand, value: str | None) -> Outcome:
        """/temperature, /top_p and /max_tokens: show or set the value."""
        if value is None:
            chosen = await self._storage.history.resolved(event.key)
            current = getattr(self._conversations.params_of(chosen), event.name)
            return Notice(f"{event.name} is {current:g} here.")
        await self._storage.history.set(event.key, event.name, value)
        return Notice(f"{event.name} is now {value} here.")

    async def think(self, event: IncomingCommand, value: str | None) -> Outcome:
        """/think: show or set how much the model thinks. Refused if the model of the conversation does not know it."""
        chosen = await self._storage.history.resolved(event.key)
        if value is None:
            return Notice(f"think is {chosen.get('think', DEFAULT)} here.")
        model = self._conversations.model_of(chosen)
        known = self._loader.capabilities.get(model)
        if known is not None and known.efforts is not None and value not in known.efforts:
            raise RequestRefused(_cannot_think(model, known, value))
        await self._storage.history.set(event.key, "think", value)
        unsure = known is None or known.efforts is None
        return Notice(f"think is now {value} here{', if the model knows it' if unsure else ''}.")

    async def system(self, event: IncomingCommand, value: str | None) -> Outcome:
        """/system: show, set or clear the system prompt."""
        if value is None:
            chosen = await self._storage.history.resolved(event.key)
            text = self._conversations.system_of(chosen, self._conversations.model_of(chosen))
            return Notice(f"The instructions here are:\n\n{text}" if text else "No instructions are set here.")
        cleared = value.lower() == CLEAR
        await self._storage.history.set(event.key, "system", None if cleared else value)
        return Notice("Back to the default instructions." if cleared else "The instructions here are changed.")

    async def model(self, event: IncomingCommand, value: str | None) -> Outcome:
        """/model: list the models, or choose one for this conversation."""
        if value is None:
            model = self._conversations.model_of(await self._storage.history.resolved(event.key))
            names = self._offered()
            lines = [f"{model} answers here. Available models:", *(f"- {self._label(name)}" for name in names)]
            return Notice("\n".join(lines))
        if self._is_elsewhere(name := value.strip().lower()):
            await self._storage.history.set(event.key, "model", name)
            return Notice(f"{name} answers here now.")
        try:
            name = self._config.catalog.choose(value).name
        except ModelError as error:
            raise RequestRefused(str(error)) from error
        fit = self._installed_models.fit(name)
        if fit is not None and fit.verdict is Verdict.WONT_FIT:
            raise RequestRefused(f"{name} won't fit here: {fit.sentence}")
        if fit is not None and fit.verdict is Verdict.NEEDS:
            raise RequestRefused(f"{name} cannot run here. {fit.sentence}")
        if not self._installed_models.has(name):
            raise RequestRefused(f"{name} is not downloaded yet; run `inhouse pull {name}`.")
        await self._storage.history.set(event.key, "model", name)
        return Notice(f"{name} answers here now.{f' {fit.sentence}' if fit else ''}")

    async def settings(self, event: IncomingCommand, _: str | None) -> Outcome:
        """/settings: show the effective settings and where each was set."""
        here = await self._storage.history.settings(event.key)
        channel = {} if not event.key.thread else await self._storage.history.settings(replace(event.key, thread=""))
        chosen = {**channel, **here}
        params = self._conversations.params_of(chosen)
        model = self._conversations.model_of(chosen)
        system = self._conversations.system_of(chosen, model)
        loaded = self._loader.loaded
        known = loaded.capabilities if loaded is not None and loaded.name == model else Capabilities()
        sampling = {
            name: f"{getattr(params, name):g}"
            for name, off in DEFAULTS.items()
            if name in ALWAYS_SHOWN or getattr(params, name) != off
        }
        values = {
            "model": model,
            **sampling,
            "max_tokens": f"{params.max_tokens}",
            "think": params.think or DEFAULT,
            "system": as_code(system) if system else "none",
        }
        where = self._origins(chosen)
        where |= {name: "set here" if name in here else "set for the channel" for name in chosen}
        lines = [f"- {name}: {text} ({where.get(name, 'default')})" for name, text in values.items()]
        lines += [f"- the model {', '.join(known.abilities)}"] * bool(known.abilities)
        lacking = [name for name in known.lacks if name in values]
        lines += [f"- {name}: the model's server does not take it and uses its own" for name in lacking]
        return Notice("\n".join(lines))

    def _origins(self, chosen: Mapping[str, str]) -> dict[str, str]:
        """Where each value comes from that neither the channel nor the thread has set."""
        settings = self._config.settings
        given = ("model", "max_tokens", "system_prompt")
        found = {name: variable(name) for name in given if name in settings.model_fields_set}
        system = {"system": found.pop("system_prompt", CATALOG_SOURCE)}
        return found | system | self._conversations.sources_of(chosen)

    def choices(self, command: str, prefix: str) -> Sequence[Choice]:
        """Completions of /model: names with their fit on this machine, best model first."""
        if command != "model":
            return ()
        names = [name for name in self._offered() if prefix.lower() in name.lower()]
        return tuple(Choice(self._label(name)[:100], name) for name in names[:25])

    def _offered(self) -> list[str]:
        """The models that people may switch to, also those that only other hosts have."""
        names = self._installed_models.ranked()
        return [*names, *sorted(self._config.elsewhere.difference(names))]

    def _is_elsewhere(self, name: str) -> bool:
        """Whether other hosts have a model, and this one has not."""
        return name in self._config.elsewhere and name not in self._installed_models.usable

    def _label(self, name: str) -> str:
        if self._is_elsewhere(name):
            return f"{name} · on another host"
        fit = self._installed_models.fit(name)
        verdict = f" · {fit.words}" if fit is not None else ""
        return f"{name}{verdict}{'' if self._installed_models.has(name) else ' · not downloaded'}"


def _cannot_think(model: str, known: Capabilities, value: str) -> str:
    """Why a model does not take a value of /think."""
    if known.efforts:
        return f"{model} cannot switch its thinking to {value}; choose {' or '.join(known.efforts)}."
    if known.reasoning:
        return f"{model} always thinks as much as it needs; nothing can be set."
    return f"{model} does not think before it answers, so there is nothing to set; choose another model with /model."
