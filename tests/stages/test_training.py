"""Training that is stopped and started again, shared among data workers and among processes, against one run of it."""

import json
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor

from rlm.callbacks.index_refresh import IndexRefresher
from rlm.callbacks.masking import Masking
from rlm.config import Runtime
from rlm.data.config import SalientSpans
from rlm.data.datamodules import Batches, IctBatches, MaskedSentences, QuestionBatches
from rlm.data.gold import GoldAnswers, question_tokens
from rlm.data.tokens import Ragged
from rlm.models.config import FinetuneConfig, IctConfig, PretrainConfig, Training
from rlm.models.ict import InverseCloze
from rlm.models.open_qa import OpenQa, SpanReader
from rlm.models.realm import KnowledgeAugmentedEncoder, Realm
from rlm.retrieval.config import ExactIndex, IndexRefresh
from rlm.retrieval.encoder import DualEncoder
from rlm.retrieval.index import open_index
from rlm.retrieval.refresh import build_snapshot_index, write_snapshot
from rlm.stages import training
from rlm.stages.store import StageContext
from rlm.stages.training import fit
from tests import worlds

STEPS = 20  # a checkpoint every two of them


@dataclass
class Progress:
    """A reporter that remembers."""

    progressed: list = field(default_factory=list)

    def progress(self, done, total, shown):
        self.progressed.append((done, total, dict(shown)))

    def note(self, text):
        raise AssertionError(text)


@dataclass
class Run:
    """One training in a folder of its own, as a stage would start it."""

    module: pl.LightningModule
    batches: Batches
    training: Training
    context: StageContext
    callbacks: list[pl.Callback]

    def fit(self, *more: pl.Callback) -> dict[str, float]:
        callbacks = [*self.callbacks, *more]
        return fit(self.module, self.batches, self.training, self.context.folder, self.context, callbacks)

    def events(self, name: str) -> list[tuple[int, float]]:
        lines = (json.loads(line) for line in (self.context.folder / "events.jsonl").read_text().splitlines())
        return [(line["step"], line["metrics"][name]) for line in lines if name in line["metrics"]]


Make = Callable[..., Run]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> worlds.TinyWorld:
    return worlds.write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def qa_index(world: worlds.TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A retriever's snapshot and its index, as fine-tuning gets them."""
    snapshot = write_snapshot(worlds.small_retriever(world.corpus), tmp_path_factory.mktemp("index"), 0)
    build_snapshot_index(snapshot, world.folder, ExactIndex())
    return snapshot


@pytest.fixture
def make(
    world: worlds.TinyWorld, qa_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Make:
    """`make(task, folder)`: new weights and batches; called twice with one folder, it goes on with what is there."""
    monkeypatch.setattr(training, "LOG_EVERY", 1)

    def build(
        task: str,
        folder: str = "run",
        dropout: float = 0.1,
        refresh: IndexRefresh = IndexRefresh(every=3, probes=8, measure_every=4),  # noqa: B008
        **runtime: int,
    ) -> Run:
        (tmp_path / folder).mkdir(exist_ok=True)
        shared = Runtime(device="cpu", **runtime)
        context = StageContext(0, shared, 1, tmp_path / folder, Progress())
        steps = Training(steps=STEPS, batch_size=8, learning_rate=1e-3, warmup_steps=2, precision="float32")
        encoder_config = replace(worlds.ENCODER, dropout=dropout)
        config = replace(worlds.RETRIEVER, encoder=encoder_config)
        torch.manual_seed(1)
        retriever = DualEncoder(config, world.corpus.vocab_size)
        encoder = KnowledgeAugmentedEncoder(encoder_config, world.corpus.vocab_size)
        if task == "ict":
            batches = IctBatches(world.corpus, 8, 0.1, config.query_tokens, config.passage_tokens, 0)
            return Run(InverseCloze(retriever, IctConfig(training=steps)), batches, steps, context, [])
        if task == "finetune":
            finetune = FinetuneConfig(training=steps, early_candidates=20, span_hidden_size=16, passage_tokens=64)
            embeddings = torch.from_numpy(np.load(qa_index / "embeddings.npy"))
            module = OpenQa(
                DualEncoder.load(qa_index / "retriever"),
                SpanReader(encoder, 16, 10),
                world.corpus,
                open_index(qa_index / "index"),
                embeddings,
                finetune,
                GoldAnswers(world.corpus, world.questions),
            )
            questions = QuestionBatches(question_tokens(world.corpus, world.questions), 8, 0)
            return Run(module, questions, steps, context, [])
        pretrain = PretrainConfig(training=steps, candidates=4, query_tokens=32, passage_tokens=64)
        sentences = MaskedSentences(world.corpus, world.spans, 8, 32, 10, 0)
        sentences.scheme = SalientSpans()
        probes: Ragged = sentences.batch(sentences.examples[:8], 99)["masked"]
        refresher = IndexRefresher(
            refresh, ExactIndex(), world.folder, tmp_path / folder / "snapshots", probes, context.log
        )
        module = Realm(retriever, encoder, world.corpus, pretrain)
        return Run(module, sentences, steps, context, [Masking(SalientSpans()), refresher])

    return build


class Stop(pl.Callback):
    """Does something, once, in the middle of a step."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self.step, self.action = step, action

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.step:
            self.action()


class Boom(Exception):
    pass


def explode() -> None:
    raise Boom


def interrupt() -> None:
    raise KeyboardInterrupt


def in_process(work: Callable[[], object]) -> int | None:
    """Exit code of a forked process that did the work."""

    def run() -> None:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError("hangs")
    return process.exitcode


def assert_same_weights(left: pl.LightningModule, right: pl.LightningModule) -> None:
    expected = right.state_dict()
    for name, value in left.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("task", ["ict", "pretrain"])
def test_fit__ends_with_the_same_bits_when_it_was_stopped_and_started_again(make: Make, task: str) -> None:
    undisturbed = make(task)
    expected = undisturbed.fit()
    for step in (1, 9, 14, STEPS - 1):  # before the first checkpoint, between two, in the last step
        with pytest.raises(Boom):
            make(task, "stopped").fit(Stop(step, explode))
    again = make(task, "stopped")
    assert again.fit() == expected
    assert again.events("steps_per_second")[-1][0] == STEPS
    assert_same_weights(again.module, undisturbed.module)
    assert sorted(dict(again.events("loss")).items()) == sorted(undisturbed.events("loss"))
