"""Which scheme masks, and that schemes are compared on the same sentences."""

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from rlm.callbacks.masking import Masking
from rlm.data.config import MaskingConfig, RandomSpans, SalientSpans, UniformTokens
from rlm.data.datamodules import MaskedSentences, StepDataModule
from rlm.data.tokens import Ragged
from tests import worlds

STEPS = 3


class Reader(pl.LightningModule):
    """Keeps every batch it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[dict] = []

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        return self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> worlds.TinyWorld:
    return worlds.write_world(tmp_path_factory.mktemp("world"))


def sentences(world: worlds.TinyWorld) -> MaskedSentences:
    return MaskedSentences(world.corpus, world.spans, 16, 32, 10, seed=3)


def train(world: worlds.TinyWorld, folder: Path, *callbacks: pl.Callback) -> list[dict]:
    reader = Reader()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(reader, datamodule=StepDataModule(sentences(world), STEPS))
    return reader.batches


def rows(ragged: Ragged) -> list[list[int]]:
    return [ragged.values[a:b].tolist() for a, b in zip(ragged.offsets[:-1], ragged.offsets[1:], strict=True)]


def masked(batch: dict) -> list[list[int]]:
    return [[int(p) for p in row if p >= 0] for row in batch["positions"]]


SCHEMES: list[MaskingConfig] = [UniformTokens(), RandomSpans(), SalientSpans()]


def test_masking__trains_on_what_its_scheme_masks(world: worlds.TinyWorld, tmp_path: Path) -> None:
    seen = []
    for scheme in SCHEMES:
        expected = sentences(world)
        expected.scheme = scheme
        batches = train(world, tmp_path, Masking(scheme))
        for step, batch in enumerate(batches):
            assert rows(batch["masked"]) == rows(expected(step, 0, 1)["masked"])
            assert torch.equal(batch["targets"], expected(step, 0, 1)["targets"])
        seen.append([masked(batch) for batch in batches])
    assert all(seen[i] != seen[j] for i, j in [(0, 1), (0, 2), (1, 2)])


def test_masking__shows_the_same_sentences_and_masks_as_many_whatever_the_scheme(
    world: worlds.TinyWorld, tmp_path: Path
) -> None:
    first, *others = (train(world, tmp_path, Masking(scheme)) for scheme in SCHEMES)
    for other in others:
        for left, right in zip(first, other, strict=True):
            assert rows(left["whole"]) == rows(right["whole"])
            np.testing.assert_array_equal(left["source"], right["source"])
            assert list(map(len, masked(left))) == list(map(len, masked(right)))


def test_masked_sentences__say_what_is_missing_without_a_scheme(world: worlds.TinyWorld, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="add the Masking callback to the Trainer"):
        train(world, tmp_path)
