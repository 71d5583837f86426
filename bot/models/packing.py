"""Pack a model's weights in 16 bits for a CPU's fastest kernels, and fuse the linear layers that get the same input.

float16 uses FBGEMM's kernels with float32 arithmetic: bfloat16 weights convert exactly, except values below 0.00006,
which are rounded. bfloat16 uses oneDNN's layout and rounds the input of each layer, too. `bot.models.format_choice`
measures which is faster (docs/measurements.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

LARGEST = 65504.0
"""The largest finite float16 value."""
SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that get the same input in transformers' models; one fused product costs less than one per layer."""

Product = Callable[[Tensor], Tensor]
"""A linear layer whose weights are packed: the output for an input [..., in_features]."""


def pack(model: nn.Module, dtype: str) -> None:
    """Pack the model in place, as 'float16' or 'bfloat16'.

    With float16, layers with weights beyond its range and all other parameters become float32. With bfloat16, layers
    that the model keeps in float32 and all other parameters stay as they are.
    """
    half = dtype == "float16"
    for module in list(model.modules()):
        for names in (*SAME_INPUT, *((name,) for name, _ in module.named_children())):
            _fuse(module, names, dtype)
        for name, child in list(module.named_children()):
            if half and type(child) is nn.Embedding and _fits(child, dtype):
                setattr(module, name, HalfEmbedding(child))
    if half:
        model.float()
    for left in (*model.parameters(), *model.buffers()):
        left.data = left.data.clone()  # a view of the mapped file would keep all of it in memory


def packed_bytes(model: nn.Module) -> int:
    """Bytes of the packed weights, which are no longer parameters of the model."""
    return sum(module.bytes for module in model.modules() if isinstance(module, PackedLinear | HalfEmbedding))


class PackedLinear(nn.Module):
    """A linear layer that returns its slice of a fused projection. Input and output are float32, or bfloat16."""

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

    def __init__(self, linears: Sequence[nn.Linear], dtype: str) -> None:
        states = [linear.state_dict() for linear in linears]
        form = FORMATS[dtype]
        weight = _stacked([state["weight"] for state in states], form.source)
        bias = _stacked([state["bias"] for state in states], form.source) if "bias" in states[0] else None
        self._product = form.product(weight, bias)
        self._count = len(linears)
        self._cached: tuple[Tensor, Tensor] | None = None  # the last input and its result
        self._reads = 0

    def of(self, hidden: Tensor) -> Tensor:
        """The outputs of all layers, concatenated along the last dimension."""
        if self._cached is None or self._cached[0] is not hidden:
            self._cached, self._reads = (hidden, self._product(hidden)), 0
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


def float16_product(weight: Tensor, bias: Tensor | None = None) -> Product:
    """Pack float32 weights in FBGEMM's layout. Input and output are float32."""
    packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)
    return lambda hidden: torch.ops.quantized.linear_dynamic_fp16(hidden, packed)


def bfloat16_product(weight: Tensor, bias: Tensor | None = None) -> Product:
    """Pack bfloat16 weights in oneDNN's layout. Input and output are bfloat16."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    return lambda hidden: torch.ops.mkldnn._linear_pointwise(hidden, packed, bias, "none", [], "")


@dataclass(frozen=True, slots=True)
class Format:
    """How weights of a dtype are packed. source: the dtype from which `product` packs [out_features, in_features]."""

    source: torch.dtype
    product: Callable[[Tensor, Tensor | None], Product]


FORMATS: Mapping[str, Format] = {
    "float16": Format(torch.float32, float16_product),
    "bfloat16": Format(torch.bfloat16, bfloat16_product),
}
"""By dtype."""


def _fuse(module: nn.Module, names: Sequence[str], dtype: str) -> None:
    """Fuse these layers of a module if all exist and agree in input size and in having a bias."""
    children = [child for name in names if type(child := getattr(module, name, None)) is nn.Linear]
    linears = [child for child in children if _fits(child, dtype)]
    kinds = {(linear.in_features, linear.bias is None) for linear in linears}
    if len(linears) < len(names) or len(kinds) > 1:
        return
    fused, start = FusedLinear(linears, dtype), 0
    for name, linear in zip(names, linears, strict=True):
        setattr(module, name, PackedLinear(linear, fused, start))
        start += linear.out_features


def _stacked(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Concatenate as this dtype in one step; converting the parts first would take twice the memory."""
    return torch.cat(list(parts), out=torch.empty(0, dtype=dtype))


def _fits(module: nn.Linear | nn.Embedding, dtype: str) -> bool:
    if dtype == "bfloat16":
        return module.weight.dtype == torch.bfloat16
    return bool(module.weight.abs().max() <= LARGEST)
