"""Installs a masking scheme in the DataModule of masked sentences."""

import lightning.pytorch as pl

from rlm.data.config import MaskingConfig


class Masking(pl.Callback):
    """Uniform tokens, random spans or salient spans; seeded per example and epoch, so workers and ranks agree."""

    def __init__(self, scheme: MaskingConfig) -> None:
        self.scheme = scheme

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        batches = trainer.datamodule.batches  # type: ignore[attr-defined]
        batches.scheme = self.scheme
