"""Weights in 16 bits and arithmetic in 32, for CPUs that have no fast 16-bit arithmetic.

In: a loaded model. Out: the same model, its linear layers and embeddings in float16, the linear ones laid out as
FBGEMM's kernels read them. That is half the memory of float32 to read for each token, and it is twice as fast there
(bench/RESULTS.md). A number of bfloat16 loses nothing in float16, unless it is below 0.00006 and is rounded.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

LARGEST = 65504.0
"""The largest number of float16."""
SAME_LINE = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that transformers' models give the same line: one call for all of them costs less than one for each."""


def pack(model: nn.Module) -> None:
    """Change the model in place. What does not fit into float16 stays in float32."""
    for module in list(model.modules()):
        for names in (*SAME_LINE, *((name,) for name, _ in module.named_children())):
            _join(module, names)
        for name, child in list(module.named_children()):
            if type(child) is nn.Embedding and _fits(child):
                setattr(module, name, HalfEmbedding(child))
    model.float()


def packed_bytes(model: nn.Module) -> int:
    """What packed weights take; they are no parameters of the model any more."""
    return sum(module.bytes for module in model.modules() if isinstance(module, PackedLinear | HalfEmbedding))


class PackedLinear(nn.Module):
    """A linear layer, one of those that are computed together: float32 in, float32 out."""

    def __init__(self, linear: nn.Linear, whole: "Whole", start: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bytes = 2 * linear.weight.numel()
        self._whole, self._start = whole, start

    def forward(self, line: Tensor) -> Tensor:
        return self._whole.of(line)[..., self._start : self._start + self.out_features]


class Whole:
    """What one or several layers make of a line: whichever is asked first computes it for all of them.

    It is kept until each has had it. In a model that gives them different lines each computes all, and the last line
    stays; no language model of today does. For one thread at a time.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self._packed = _prepacked(linears)
        self._count = len(linears)
        self._held: tuple[Tensor, Tensor] | None = None  # a line and what was made of it
        self._asked = 0

    def of(self, line: Tensor) -> Tensor:
        """The outputs of all, side by side."""
        if self._held is None or self._held[0] is not line:
            self._held, self._asked = (line, torch.ops.quantized.linear_dynamic_fp16(line, self._packed)), 0
        made, self._asked = self._held[1], self._asked + 1
        if self._asked == self._count:
            self._held = None
        return made


class HalfEmbedding(nn.Module):
    """An embedding: ids in, float32 out."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self._weight = (table.weight.detach().half(),)  # in a tuple, so that float() passes it by
        self.bytes = 2 * table.weight.numel()

    def forward(self, ids: Tensor) -> Tensor:
        return embedding(ids, self._weight[0]).float()


def _join(module: nn.Module, names: Sequence[str]) -> None:
    """Have these layers of a module computed together, if it has them all and they are alike."""
    linears = [child for name in names if type(child := getattr(module, name, None)) is nn.Linear and _fits(child)]
    kinds = {(linear.in_features, linear.bias is None) for linear in linears}
    if len(linears) < len(names) or len(kinds) > 1:
        return
    whole, start = Whole(linears), 0
    for name, linear in zip(names, linears, strict=True):
        setattr(module, name, PackedLinear(linear, whole, start))
        start += linear.out_features


def _prepacked(linears: Sequence[nn.Linear]) -> object:
    """The weights of all, one below the other, as the kernels read them."""
    states = [linear.state_dict() for linear in linears]
    bias = _stacked([state["bias"] for state in states]) if "bias" in states[0] else None
    return torch.ops.quantized.linear_prepack_fp16(_stacked([state["weight"] for state in states]), bias)


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Float32, made at once: first each part and then all of them would take twice the memory."""
    return torch.cat(list(parts), out=torch.empty(0))


def _fits(module: nn.Linear | nn.Embedding) -> bool:
    return bool(module.weight.abs().max() <= LARGEST)
