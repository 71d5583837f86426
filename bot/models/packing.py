"""Weights in 16 bits and arithmetic in 32, for CPUs that have no fast 16-bit arithmetic.

In: a loaded model. Out: the same model, its linear layers and embeddings in float16, the linear ones laid out as
FBGEMM's kernels read them. That is half the memory of float32 to read for each token, and it is twice as fast there
(bench/RESULTS.md). A number of bfloat16 loses nothing in float16, unless it is below 0.00006 and is rounded.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

LARGEST = 65504.0
"""The largest number of float16."""


def can_pack() -> bool:
    """Whether this machine's torch has the kernels, and its CPU their instructions."""
    capabilities = torch.cpu.get_capabilities()
    has = "fbgemm" in torch.backends.quantized.supported_engines
    return has and all(capabilities.get(name) for name in ("avx2", "f16c", "fma3"))


def pack(model: nn.Module) -> None:
    """Change the model in place. What does not fit into float16 stays in float32."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and _fits(child.weight):
                setattr(module, name, PackedLinear(child))
            elif type(child) is nn.Embedding and _fits(child.weight):
                setattr(module, name, HalfEmbedding(child))
    model.float()


def packed_bytes(model: nn.Module) -> int:
    """What packed weights take; they are no parameters of the model any more."""
    return sum(module.bytes for module in model.modules() if isinstance(module, PackedLinear | HalfEmbedding))


class PackedLinear(nn.Module):
    """A linear layer: float32 in, float32 out."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bytes = 2 * linear.weight.numel()
        state = {name: value.float() for name, value in linear.state_dict().items()}  # the module's own may be shared
        self._packed = torch.ops.quantized.linear_prepack_fp16(state["weight"], state.get("bias"))

    def forward(self, line: Tensor) -> Tensor:
        out: Tensor = torch.ops.quantized.linear_dynamic_fp16(line, self._packed)
        return out


class HalfEmbedding(nn.Module):
    """An embedding: ids in, float32 out."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self._weight = (table.weight.detach().half(),)  # in a tuple, so that float() passes it by
        self.bytes = 2 * table.weight.numel()

    def forward(self, ids: Tensor) -> Tensor:
        return embedding(ids, self._weight[0]).float()


def _fits(weight: Tensor) -> bool:
    return bool(weight.abs().max() <= LARGEST)
