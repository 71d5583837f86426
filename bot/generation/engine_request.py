"""Makes the engine's request of one that was taken from the queue."""

import hashlib
from dataclasses import astuple, replace

from bot.types.engine import EngineRequest, LoadedModel
from bot.types.messages import GenerationRequest, Prompt, RequestKind, SamplingParams

MORE_THOUGHTS = 4
"""How many times the tokens for thoughts Continue grants to an answer that spent all on thoughts."""


def engine_request(request: GenerationRequest, prompt: Prompt, model: LoadedModel) -> EngineRequest:
    """What the engine gets: the prompt, capped parameters, and ids that do not show who asks where."""
    key = request.key
    conversation, workspace = _opaque_id(*astuple(key)), _opaque_id(key.platform, key.workspace)
    return EngineRequest(request.request_id, prompt, _capped(request, prompt, model), conversation, workspace)


def _capped(request: GenerationRequest, prompt: Prompt, model: LoadedModel) -> SamplingParams:
    """The parameters of a request, capped at half of the context window, so that the question always fits.

    Tokens for thoughts are granted to models that may think. To go on with an answer that has only thoughts is to
    answer again with MORE_THOUGHTS times as many, or without thinking where the model can do that.
    """
    params, room = request.params, model.context_window // 2
    most = params.think_tokens
    if request.kind is RequestKind.CONTINUE and not prompt.prefix:
        most *= MORE_THOUGHTS
        params = replace(params, think="off" if "off" in (model.capabilities.efforts or ()) else params.think)
    limit = min(params.max_tokens, room)
    if model.capabilities.thinks(params.think) is False:
        most = 0
    return replace(params, max_tokens=limit, think_tokens=min(most, room - limit))


def _opaque_id(*parts: str) -> str:
    """A stable id that does not show what it is made of."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:32]
