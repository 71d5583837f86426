"""Pack a model's weights as float16 with float32 arithmetic, for CPUs without fast 16-bit arithmetic.

Linear layers and embeddings become float16; linear layers use the layout of FBGEMM's kernels. This halves the memory
traffic per token compared with float32 and doubles the speed on such CPUs (docs/measurements.md). bfloat16 weights
convert exactly, except values below 0.00006, which are rounded.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

LARGEST = 65504.0
"""The largest finite float16 value."""
SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that get the same input in transformers' models; one fused product costs less than one per layer."""


def pack(model: nn.Module) -> None:
    """Pack the model in place. Layers with weights beyond float16's range, and all other parameters, become float32."""
    for module in list(model.modules()):
        for names in (*SAME_INPUT, *((name,) for name, _ in module.named_children())):
            _fuse(module, names)
        for name, child in list(module.named_children()):
            if type(child) is nn.Embedding and _fits(child):
                setattr(module, name, HalfEmbedding(child))
    model.float()


def packed_bytes(model: nn.Module) -> int:
    """Bytes of the packed weights, which are no longer parameters of the model."""
    return sum(module.bytes for module in model.modules() if isinstance(module, PackedLinear | HalfEmbedding))


class PackedLinear(nn.Module):
    """A linear layer that returns its slice of a fused projection; input and output are float32."""

    def __init__(self, linear: nn.Linear, fused: "FusedLinear", start: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bytes = 2 * linear.weight.numel()
        self._fused, self._start = fused, start

    def forward(self, hidden: Tensor) -> Tensor:
        return self._fused.of(hidden)[..., self._start : self._start + self.out_features]


class FusedLinear:
    """A fused projection of one or more linear layers: the first caller computes it, the others reuse the result.

    The result is kept until each layer has read it. If the layers get different inputs, each call computes all of them
    and the last result stays in memory; no known language model does this. Not thread-safe.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self._packed = _prepacked(linears)
        self._count = len(linears)
        self._cached: tuple[Tensor, Tensor] | None = None  # the last input and its result
        self._reads = 0

    def of(self, hidden: Tensor) -> Tensor:
        """The outputs of all layers, concatenated along the last dimension."""
        if self._cached is None or self._cached[0] is not hidden:
            self._cached, self._reads = (hidden, torch.ops.quantized.linear_dynamic_fp16(hidden, self._packed)), 0
        result, self._reads = self._cached[1], self._reads + 1
        if self._reads == self._count:
            self._cached = None
        return result


class HalfEmbedding(nn.Module):
    """An embedding with float16 weights and float32 output."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self._weight = (table.weight.detach().half(),)  # in a tuple, so that model.float() does not convert it
        self.bytes = 2 * table.weight.numel()

    def forward(self, ids: Tensor) -> Tensor:
        return embedding(ids, self._weight[0]).float()


def _fuse(module: nn.Module, names: Sequence[str]) -> None:
    """Fuse these layers of a module if all exist and agree in input size and in having a bias."""
    linears = [child for name in names if type(child := getattr(module, name, None)) is nn.Linear and _fits(child)]
    kinds = {(linear.in_features, linear.bias is None) for linear in linears}
    if len(linears) < len(names) or len(kinds) > 1:
        return
    fused, start = FusedLinear(linears), 0
    for name, linear in zip(names, linears, strict=True):
        setattr(module, name, PackedLinear(linear, fused, start))
        start += linear.out_features


def _prepacked(linears: Sequence[nn.Linear]) -> object:
    """The weights of all layers, concatenated, in FBGEMM's layout."""
    states = [linear.state_dict() for linear in linears]
    bias = _stacked([state["bias"] for state in states]) if "bias" in states[0] else None
    return torch.ops.quantized.linear_prepack_fp16(_stacked([state["weight"] for state in states]), bias)


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate as float32 in one step; converting the parts first would take twice the memory."""
    return torch.cat(list(parts), out=torch.empty(0))


def _fits(module: nn.Linear | nn.Embedding) -> bool:
    return bool(module.weight.abs().max() <= LARGEST)
