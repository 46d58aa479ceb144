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
from rlm.retrieval import encoder
from rlm.retrieval.config import ExactIndex, IndexRefresh
from rlm.retrieval.encoder import DualEncoder
from rlm.retrieval.index import open_index
from rlm.retrieval.refresh import build_snapshot_index, write_snapshot
from rlm.stages import training
from rlm.stages.store import StageContext
from rlm.stages.training import fit
from rlm.worker import _PipeReporter
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
def make(world: worlds.TinyWorld, qa_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
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
        reader = KnowledgeAugmentedEncoder(encoder_config, world.corpus.vocab_size)
        if task == "ict":
            batches = IctBatches(world.corpus, 8, 0.1, config.query_tokens, config.passage_tokens, 0)
            return Run(InverseCloze(retriever, IctConfig(training=steps)), batches, steps, context, [])
        if task == "finetune":
            finetune = FinetuneConfig(training=steps, early_candidates=20, span_hidden_size=16, passage_tokens=64)
            embeddings = torch.from_numpy(np.load(qa_index / "embeddings.npy"))
            module = OpenQa(
                DualEncoder.load(qa_index / "retriever"),
                SpanReader(reader, 16, 10),
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
        module = Realm(retriever, reader, world.corpus, pretrain)
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


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


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
def test_fit__ends_with_the_same_bits_when_its_process_was_killed(make: Make, task: str) -> None:
    undisturbed = make(task)
    expected = undisturbed.fit()
    for step in (1, 9, STEPS - 1):  # before the first checkpoint, between two, in the last step
        assert in_process(lambda step=step: make(task, "killed").fit(Stop(step, die))) == -signal.SIGKILL
    again = make(task, "killed")
    assert again.fit() == expected
    assert again.context.reporter.progressed[0][0] == STEPS - 1  # it went on from the checkpoint of step 18
    assert_same_weights(again.module, undisturbed.module)
    assert dict(again.events("loss")) == dict(undisturbed.events("loss"))


class AtEnd(pl.Callback):
    def on_train_end(self, trainer, pl_module):
        raise Boom


def test_fit__returns_the_metrics_when_it_was_stopped_after_the_last_step(make: Make) -> None:
    expected = make("ict").fit()
    with pytest.raises(Boom):
        make("ict", "stopped").fit(AtEnd())
    assert make("ict", "stopped").fit() == expected != {}


def test_fit__goes_on_from_the_checkpoint_before_when_it_was_killed_while_it_wrote_one(make: Make) -> None:
    undisturbed = make("ict")
    expected = undisturbed.fit()
    saved = []

    def save(checkpoint: dict, path: str) -> None:
        saved.append(path)
        whole_save(checkpoint, path)
        if len(saved) == 3:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    whole_save = torch.save

    def killed() -> None:
        torch.save = save
        make("ict", "killed").fit()

    assert in_process(killed) == -signal.SIGKILL
    again = make("ict", "killed")
    assert again.fit() == expected
    assert again.context.reporter.progressed[0][0] == 5
    assert_same_weights(again.module, undisturbed.module)


def test_fit__can_be_interrupted_and_goes_on(make: Make) -> None:
    handler = signal.getsignal(signal.SIGINT)
    undisturbed = make("ict")
    expected = undisturbed.fit()
    with pytest.raises(KeyboardInterrupt):
        make("ict", "interrupted").fit(Stop(9, interrupt))
    assert signal.getsignal(signal.SIGINT) is handler
    again = make("ict", "interrupted")
    assert again.fit() == expected
    assert again.context.reporter.progressed[0][0] == 9


@pytest.mark.parametrize("task", ["ict", "pretrain", "finetune"])
def test_fit__gives_the_same_bits_with_two_data_workers(make: Make, task: str) -> None:
    alone, helped = make(task), make(task, "helped", workers=2)
    assert helped.fit() == alone.fit()
    assert_same_weights(helped.module, alone.module)


def test_fit__removes_its_checkpoints(make: Make) -> None:
    run = make("ict")
    with pytest.raises(Boom):
        run.fit(Stop(9, explode))
    assert [path.name for path in (run.context.folder / "checkpoints").iterdir()] == ["last.ckpt"]
    make("ict").fit()
    assert not (run.context.folder / "checkpoints").exists()


class Mode(pl.Callback):
    """Which modules are in evaluation mode while a step is computed."""

    def __init__(self) -> None:
        self.asleep: set[str] = set()

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.asleep |= {name for name, module in pl_module.named_modules() if not module.training}


def test_fit__trains_with_dropout_although_the_module_was_loaded_for_inference(make: Make) -> None:
    run, mode = make("pretrain"), Mode()
    run.module.eval()
    run.fit(mode)
    assert mode.asleep == set()
    assert any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in run.module.modules())


def test_fit__logs_every_step_and_reports_progress(make: Make) -> None:
    run = make("pretrain")
    metrics = run.fit()
    steps = list(range(STEPS))
    for name in ("loss", "entropy", "index_age", "masked_tokens", "retrieval_utility", "null_mass"):
        assert [step for step, _ in run.events(name)] == steps, name
        assert metrics[name] == pytest.approx(run.events(name)[-1][1])
    rates = run.events("steps_per_second")
    assert [step for step, _ in rates] == [step + 1 for step in steps] and min(rate for _, rate in rates) > 0
    done, total, shown = run.context.reporter.progressed[-1]
    assert (done, total) == (STEPS, STEPS)
    assert shown["loss"] == metrics["loss"] and shown["steps_per_second"] == rates[-1][1]


class Seen(pl.Callback):
    """Which index each rank retrieves from at each step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        with open(self.folder / f"rank-{trainer.global_rank}.txt", "a") as file:
            file.write(f"{trainer.global_step} {pl_module.index_step}\n")


def losses(run: Run) -> Tensor:
    events = run.events("loss")
    assert [step for step, _ in events] == list(range(STEPS))
    return torch.tensor([loss for _, loss in events], dtype=torch.float64)


@pytest.mark.parametrize("task", ["ict", "pretrain", "finetune"])
def test_fit__has_the_losses_of_one_process_on_two(make: Make, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # rounding to bfloat16 turns differences of the last bit into other candidates
    monkeypatch.setattr(encoder, "has_fast_bfloat16", lambda device: False)
    one, two = make(task, dropout=0.0), make(task, "two", dropout=0.0, devices=2)
    watch = [Seen(two.context.folder)] if task == "pretrain" else []
    one.fit()

    def train() -> None:
        metrics = two.fit(*watch)
        assert metrics["loss"] == pytest.approx(two.events("loss")[-1][1])

    assert in_process(train) == 0
    torch.testing.assert_close(losses(two), losses(one), rtol=1e-5, atol=0)
    if watch:
        ranks = [(two.context.folder / f"rank-{rank}.txt").read_text() for rank in range(2)]
        assert ranks[0] == ranks[1] == "".join(f"{step} {step // 3 * 3}\n" for step in range(STEPS))


def test_fit__goes_on_with_two_processes_after_both_were_killed(make: Make) -> None:
    undisturbed = make("pretrain", devices=2)
    assert in_process(undisturbed.fit) == 0

    assert in_process(lambda: make("pretrain", "killed", devices=2).fit(Stop(9, die))) == 1
    again = make("pretrain", "killed", devices=2)
    assert in_process(again.fit) == 0
    assert dict(again.events("loss")) == dict(undisturbed.events("loss"))
    assert [step for step, _ in again.events("loss")].count(9) == 1


def test_fit__with_spawned_processes_trains_the_weights_here_and_reports_through_the_worker_s_pipe(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two GPUs do it, whose processes cannot be forked."""
    alone, run = make("ict", dropout=0.0), make("ict", "spawned", dropout=0.0, devices=2)
    expected = alone.fit()
    monkeypatch.setitem(training.START_METHOD, "cpu", "spawn")
    read_from, write_to = os.pipe()
    run.context.reporter = _PipeReporter(os.fdopen(write_to, "w"))
    metrics = run.fit()
    run.context.reporter = Progress()
    with os.fdopen(read_from) as pipe:
        told = [json.loads(pipe.readline())]
    assert told[0]["kind"] == "progress" and told[0]["total"] == STEPS
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    for name, value in alone.module.state_dict().items():
        torch.testing.assert_close(run.module.state_dict()[name], value, atol=1e-4, rtol=1e-3, msg=name)
