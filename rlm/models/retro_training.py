"""RETRO as a LightningModule: next tokens of windows of documents, beside the neighbours of their chunks."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch.nn.functional as F
from safetensors.torch import load_model, save_file
from torch import Tensor

from rlm.models.config import Training
from rlm.models.optimizer import configure
from rlm.models.retro import Neighbours, Retro, build_retro
from rlm.models.retro_config import RetroConfig


def read_neighbours(batch: dict[str, Any]) -> Neighbours | None:
    """Those of a batch of windows; None where it was made without."""
    if "neighbour_ids" not in batch:
        return None
    return Neighbours(batch["neighbour_ids"], batch["neighbour_mask"])


def token_nats(model: Retro, batch: dict[str, Any]) -> Tensor:
    """-log p of the token after each, 0 where it does not count, float32 [batch, length]."""
    logits = model(batch["ids"], read_neighbours(batch))
    nats = F.cross_entropy(logits.float().flatten(0, 1), batch["targets"].flatten(), reduction="none")
    return nats.view_as(batch["targets"]) * batch["scored"]


class RetroTraining(pl.LightningModule):
    """Mean cross-entropy over the tokens that count (2112.04426, equation 1)."""

    def __init__(self, model: Retro, training: Training) -> None:
        super().__init__()
        self.model, self.training_config = model, training

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        count = batch["scored"].sum().float()
        if self.trainer.world_size > 1:  # the mean is over the tokens of all ranks
            count = self.trainer.strategy.reduce(count, reduce_op="mean")
        loss = token_nats(self.model, batch).sum() / count.clamp(min=1)
        self.log_dict({"loss": loss.detach(), "tokens": count}, sync_dist=True, batch_size=len(batch["ids"]))
        return loss

    def configure_optimizers(self) -> Any:
        return configure(self, self.training_config)


def save_retro(model: Retro, path: Path) -> None:
    """Write all weights, tied ones once."""
    save_file({name: weight.detach().contiguous() for name, weight in model.named_parameters()}, path)


def load_retro(config: RetroConfig, vocab_size: int, path: Path) -> Retro:
    """Read what `save_retro` wrote, in evaluation mode."""
    model = build_retro(config, vocab_size)
    load_model(model, path)
    return model.eval()
