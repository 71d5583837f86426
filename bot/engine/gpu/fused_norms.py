"""Replaces a model's RMS norms by torch's own kernel, one launch instead of eight, where it computes the same.

Classes differ: Gemma's norms scale by 1 + weight, and Llama's round before they scale. So each class is compared with
the formula in float64, and keeps its own code unless torch's kernel is as close to that.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm
from transformers import PreTrainedModel

ROUNDINGS = 4
"""Most difference between a norm of this formula and the exact result, in units of the dtype's precision."""


def fuse_norms(model: PreTrainedModel) -> list[nn.Module]:
    """Replace the norms, and return those that were replaced."""
    same: dict[tuple[type[nn.Module], int], bool] = {}
    fused = []
    for module in model.modules():
        norm: Any = module
        weight, eps = getattr(norm, "weight", None), epsilon(module)
        if eps is None or not isinstance(weight, Tensor) or weight.dim() != 1:
            continue
        known = type(module), len(weight)
        if known not in same:
            same[known] = is_same(module, weight, eps)
        if same[known]:
            norm.forward = partial(_fused, weight=weight, eps=eps)
            fused.append(module)
    return fused


def restore_norms(model: PreTrainedModel) -> None:
    """Give all norms their own code again."""
    for module in model.modules():
        if epsilon(module) is not None:
            module.__dict__.pop("forward", None)


def epsilon(module: nn.Module) -> float | None:
    """Return the epsilon of an RMS norm; None for other modules."""
    if not type(module).__name__.endswith("RMSNorm"):
        return None
    found = getattr(module, "variance_epsilon", None) or getattr(module, "eps", None)
    return found if isinstance(found, float) else None


@torch.inference_mode()
def is_same(norm: nn.Module, weight: Tensor, eps: float) -> bool:
    """Whether a norm has torch's formula, and torch's kernel is as exact."""
    drawn = torch.Generator(weight.device).manual_seed(0)
    values = torch.randn((32, len(weight)), generator=drawn, device=weight.device).to(weight.dtype)
    wide = values.double()
    exact = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight.double()
    unit = torch.finfo(weight.dtype).eps * float(exact.abs().max())
    own = float((norm(values).double() - exact).abs().max())
    fused = float((_fused(values, weight, eps).double() - exact).abs().max())
    return own <= ROUNDINGS * unit and fused <= own + unit / 4


def _fused(hidden_states: Tensor, weight: Tensor, eps: float) -> Tensor:
    return rms_norm(hidden_states, (len(weight),), weight, eps)
