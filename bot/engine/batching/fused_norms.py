"""Replaces a model's RMS norms by fewer operators where these compute the same: one on a GPU, five on a CPU.

Classes differ: Gemma's norms scale by 1 + weight, and Llama's round before they scale. So each class is compared with
the formula in float64, and keeps its own code unless the operators are as close to that.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, addcmul, nn
from torch.linalg import vector_norm
from torch.nn.functional import rms_norm
from transformers import PreTrainedModel

Norm = Callable[[Tensor], Tensor]
Formula = Callable[[Tensor, float], Norm]
"""Makes a norm from its weight and epsilon."""

ROUNDINGS = 4
"""Most difference between a norm of this formula and the exact result, in units of the dtype's precision."""


def one_kernel(weight: Tensor, eps: float) -> Norm:
    """torch's RMS norm. On a GPU it is one kernel instead of eight."""
    return lambda hidden_states: rms_norm(hidden_states, (len(weight),), weight, eps)


def five_operators(weight: Tensor, eps: float) -> Norm:
    """Fewer operators than models' own code on a CPU, and none as slow there as the mean."""
    share, constant = 1 / len(weight), torch.full((1,), eps)

    def scaled(wide: Tensor) -> Tensor:
        length = vector_norm(wide, 2, -1, True)
        return wide * addcmul(constant, length, length, value=share).rsqrt_()

    def norm(hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype == weight.dtype == torch.float32:
            return scaled(hidden_states).mul_(weight)
        return scaled(hidden_states.float()).to(hidden_states.dtype) * weight

    return norm


def fuse_norms(model: PreTrainedModel, formula: Formula) -> list[nn.Module]:
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
            same[known] = is_same(module, formula(weight, eps), weight, eps)
        if same[known]:
            norm.forward = formula(weight, eps)
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
def is_same(norm: nn.Module, fused: Norm, weight: Tensor, eps: float) -> bool:
    """Whether a norm has the usual formula, and its replacement is as exact, within a rounding."""
    drawn = torch.Generator(weight.device).manual_seed(0)
    values = torch.randn((32, len(weight)), generator=drawn, device=weight.device).to(weight.dtype)
    wide = values.double()
    exact = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight.double()
    unit = torch.finfo(weight.dtype).eps * float(exact.abs().max())
    own, other = (float((each(values).double() - exact).abs().max()) for each in (norm, fused))
    return own <= ROUNDINGS * unit and other <= own + unit
