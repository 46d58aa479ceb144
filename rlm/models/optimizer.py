"""BERT's optimiser: AdamW with linear warm-up and decay."""

from typing import Any

import torch
from torch import nn

from rlm.models.config import Training


def learning_rate_factor(step: int, training: Training) -> float:
    """Share of the learning rate at a step: warm-up, then the line to 0 at the last step.

    After warm-up the decay goes on from the un-warmed line, 1 - step / steps, as google-research/bert does.
    """
    warmup = training.warmup_steps
    if warmup is None:
        warmup = min(10_000, max(100, training.steps // 10))
    return (step + 1) / warmup if step < warmup else max(0.0, 1 - step / training.steps)


def configure(module: nn.Module, training: Training) -> Any:
    """AdamW (eps 1e-6; no decay on biases and LayerNorm) and its schedule, in Lightning's form.

    Unlike google-research/bert, torch corrects the bias of the moments.
    """
    parameters = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    plain = {name for name, p in parameters if p.ndim < 2}
    groups = [
        {"params": [p for name, p in parameters if name not in plain], "weight_decay": training.weight_decay},
        {"params": [p for name, p in parameters if name in plain], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, eps=1e-6)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, training))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
