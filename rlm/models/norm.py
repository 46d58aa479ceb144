"""RMSNorm (Zhang and Sennrich 2019, 1910.07467) for mixed precision, and with a short backward pass on CPUs."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """torch's, which has no fused kernel for activations and weights of different types, nor any on CPUs."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, vectors: Tensor) -> Tensor:
        """[..., width], to the same shape and type."""
        weight = self.weight.to(vectors.dtype)
        if vectors.device.type == "cpu":
            return _CpuRmsNorm.apply(vectors, weight, self.eps)
        return F.rms_norm(vectors, weight.shape, weight, self.eps)


class _CpuRmsNorm(torch.autograd.Function):
    """Backward by the fused kernel of LayerNorm, told that the mean is 0: a third of the time of torch's RMSNorm."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, weight: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True, dtype=_exact(vectors))
        scale = (length.square_() / vectors.shape[-1] + eps).rsqrt_()
        ctx.save_for_backward(vectors, weight, scale)
        return (vectors * scale.to(vectors.dtype)).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        vectors, weight, scale = ctx.saved_tensors
        low, mean = scale.to(vectors.dtype), torch.zeros_like(scale).to(vectors.dtype)
        of_vectors, of_weight, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, vectors, weight.shape, mean, low, weight, None, [True, True, False]
        )
        # LayerNorm's gradient has no part along the ones; RMSNorm's has.
        along_ones = (gradient @ weight).unsqueeze(-1) / len(weight)
        return of_vectors.add_(along_ones * low), of_weight, None


def _exact(vectors: Tensor) -> torch.dtype:
    return torch.promote_types(vectors.dtype, torch.float32)
