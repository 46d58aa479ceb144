"""Where bfloat16 pays."""

import torch


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 beat float32 there."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
