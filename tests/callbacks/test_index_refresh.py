"""When the index is rebuilt and swapped, what is measured of it, and what is left when a run is killed."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rlm.callbacks import index_refresh
from rlm.callbacks.index_refresh import IndexRefresher
from rlm.config import Runtime
from rlm.data.config import SalientSpans
from rlm.data.datamodules import MaskedSentences
from rlm.errors import StageError
from rlm.models.config import PretrainConfig, Training
from rlm.models.realm import Realm
from rlm.retrieval import encoder
from rlm.retrieval.config import ExactIndex, IndexRefresh
from rlm.retrieval.encoder import DualEncoder, embed_corpus, embed_queries
from rlm.retrieval.refresh import Builder, build_snapshot_index
from rlm.stages import training
from rlm.stages.training import fit
from tests import worlds

STEPS = 20  # a checkpoint every two of them
PROBES = 48


@dataclass
class Seen(pl.Callback):
    """What each training step retrieves from, and the weights it starts with."""

    index_steps: list[int] = field(default_factory=list)
    snapshots: list[list[int]] = field(default_factory=list)
    weights: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    folder: Path = Path()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.index_steps.append(pl_module.index_step)
        self.snapshots.append(numbers(self.folder))
        self.weights[trainer.global_step] = {n: v.clone() for n, v in pl_module.retriever.state_dict().items()}


def numbers(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


@dataclass
class Run:
    module: Realm
    sentences: MaskedSentences
    refresher: IndexRefresher
    folder: Path
    context: worlds.Surroundings
    seen: Seen

    def fit(self, *more: pl.Callback) -> "Run":
        steps = self.module.config.training
        fit(self.module, self.sentences, steps, self.folder, self.context, [self.refresher, *more, self.seen])
        return self

    def logged(self, name: str) -> dict[int, float]:
        return {step: metrics[name] for step, metrics in self.context.logged if name in metrics}

    def left(self) -> list[int]:
        return numbers(self.folder / "snapshots")


Make = Callable[..., Run]


class InProcess(index_refresh.Builder):
    """Builds here, once it was asked so many times whether it is done: a process of its own takes seconds to start."""

    polls = 4
    polled = 0

    def start(self, snapshot: Path) -> None:
        self.snapshot = snapshot

    def poll(self) -> bool:
        self.polled += 1
        if self.polled < self.polls:
            return False
        self.wait()
        return True

    def wait(self) -> None:
        assert self.snapshot is not None
        build_snapshot_index(self.snapshot, self.corpus, self.index_config)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> worlds.TinyWorld:
    return worlds.write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def make(world: worlds.TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`make(folder, ...)`: new weights; called twice with one folder, it goes on with what is there."""
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    monkeypatch.setattr(index_refresh, "Builder", InProcess)

    def build(folder: str = "run", *, keep: bool = False, steps: int = STEPS, **refresh: Any) -> Run:
        (tmp_path / folder).mkdir(exist_ok=True)
        trained = Training(steps=steps, batch_size=4, learning_rate=3e-3, warmup_steps=1, precision="float32")
        config = PretrainConfig(training=trained, candidates=3, query_tokens=32, passage_tokens=64)
        sentences = MaskedSentences(world.corpus, world.spans, 4, 32, 10, 0)
        sentences.scheme = SalientSpans()
        probes = sentences.batch(sentences.examples[:PROBES], 99)["masked"]
        module = Realm(worlds.small_retriever(world.corpus), worlds.small_encoder(world.corpus), world.corpus, config)
        context = worlds.Surroundings(Runtime(device="cpu"))
        snapshots = tmp_path / folder / "snapshots"
        settings = IndexRefresh(**{"probes": PROBES, "measure_every": 1000, **refresh})
        refresher = IndexRefresher(settings, ExactIndex(), world.folder, snapshots, probes, context.log, keep=keep)
        return Run(module, sentences, refresher, tmp_path / folder, context, Seen(folder=snapshots))

    return build


class Boom(Exception):
    pass


class StopAt(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.step:
            raise Boom


def stop(run: Run, step: int) -> Run:
    with pytest.raises(Boom):
        run.fit(StopAt(step))
    return run


def assert_same(left: Run, right: Run) -> None:
    expected = right.module.state_dict()
    for name, value in left.module.state_dict().items():
        assert torch.equal(value, expected[name]), name


# ---- when ----


@pytest.mark.parametrize(("every", "staleness"), [(3, 1), (3, 2), (2, 30)])
def test_sync__swaps_at_exactly_every_times_staleness(make: Make, every: int, staleness: int) -> None:
    run = make(every=every, staleness=staleness, keep=True).fit()
    period = every * staleness
    assert run.seen.index_steps == [step // period * period for step in range(STEPS)]
    assert run.left() == list(range(0, STEPS, period))
    assert run.logged("swap_delay") == dict.fromkeys(range(period, STEPS, period), 0.0)


def test_sync__never_refreshes_without_a_count(make: Make) -> None:
    run = make(every=None, keep=True).fit()
    assert set(run.seen.index_steps) == {0} and run.left() == [0]


def test_snapshot__holds_the_weights_of_its_step_and_the_index_of_those(make: Make, world: worlds.TinyWorld) -> None:
    run = make(every=8, keep=True).fit()
    for step in (0, 8, 16):
        saved = DualEncoder.load(run.folder / "snapshots" / str(step) / "retriever")
        for name, value in saved.state_dict().items():
            assert torch.equal(value, run.seen.weights[step][name]), (step, name)
        expected = np.zeros((len(world.corpus), saved.dim), np.float32)
        embed_corpus(saved, world.corpus.tokens, world.corpus.titles, world.corpus.special, expected)
        np.testing.assert_array_equal(
            np.load(run.folder / "snapshots" / str(step) / "index" / "embeddings.npy"), expected
        )


def test_async__swaps_at_exactly_swap_after_steps_and_repeats_itself_bit_for_bit(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"every": 8, "mode": "async", "swap_after": 3, "measure_every": 4, "steps": 16}
    first = make("first", **settings).fit()
    monkeypatch.setattr(index_refresh, "Builder", Builder)  # another process, and as slow as it likes
    second = make("second", **settings).fit()
    expected = [0] * 11 + [8] * 5
    assert first.seen.index_steps == second.seen.index_steps == expected
    assert first.logged("swap_delay") == {11: 3.0}
    assert_same(first, second)
    for name in ("agreement", "churn"):
        assert first.logged(name) == second.logged(name) != {}
    # a run that waits for nothing sees other passages
    assert make("sync", every=8, steps=16).fit().seen.index_steps != expected


def test_async__swaps_when_the_index_is_ready(make: Make) -> None:
    run = make(every=5, mode="async", steps=16).fit()
    # started at step 5, asked at 6, 7, 8 and 9; the refresh of step 10 is taken as the last one is done
    assert run.seen.index_steps == [0] * 9 + [5] * 5 + [10] * 2
    assert run.logged("swap_delay") == {9: 4.0, 14: 4.0}


def test_async__starts_no_second_build_while_one_is_under_way(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InProcess, "polls", 7)
    run = make(every=3, mode="async", keep=True).fit()
    # 3 is built until 10; 6 and 9 are passed over
    assert run.seen.index_steps == [0] * 10 + [3] * 9 + [12]
    assert run.left() == [0, 3, 12]


# ---- what is measured ----


def brute_top(retriever: DualEncoder, run: Run, world: worlds.TinyWorld, candidates: NDArray | None) -> NDArray:
    """Ids of the five best passages of each probe, in float64, among `candidates` ([probes, n]) where given."""
    passages = np.zeros((len(world.corpus), retriever.dim), np.float32)
    embed_corpus(retriever, world.corpus.tokens, world.corpus.titles, world.corpus.special, passages)
    queries = embed_queries(retriever, run.refresher.probes, world.corpus.special).numpy()
    scores = queries.astype(np.float64) @ passages.T.astype(np.float64)
    if candidates is not None:
        allowed = np.zeros(scores.shape, bool)
        np.put_along_axis(allowed, candidates, True, axis=1)
        scores[~allowed] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :5]


def shared(left: NDArray, right: NDArray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(left.tolist(), right.tolist(), strict=True)]))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_agreement_and_churn__are_those_of_brute_force(
    make: Make, world: worlds.TinyWorld, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "has_fast_bfloat16", lambda device: False)
    swap_after = 3 if mode == "async" else None
    run = make(every=6, measure_every=4, mode=mode, swap_after=swap_after, keep=True).fit()

    def snapshot(step: int) -> DualEncoder:
        return DualEncoder.load(run.folder / "snapshots" / str(step) / "retriever")

    def live(step: int) -> DualEncoder:
        retriever = worlds.small_retriever(world.corpus)
        retriever.load_state_dict(run.seen.weights[step])
        return retriever

    churn = run.logged("churn")
    assert list(churn) == ([6, 12, 18] if mode == "sync" else [9, 15])
    for at, value in churn.items():
        new = at - (swap_after or 0)
        expected = 1 - shared(
            brute_top(snapshot(new - 6), run, world, None), brute_top(snapshot(new), run, world, None)
        )
        assert value == pytest.approx(expected)
    agreement = run.logged("agreement")
    assert list(agreement) == [4, 8, 12, 16]
    for step, value in agreement.items():
        built = run.seen.index_steps[step] if mode == "async" else (step - 1) // 6 * 6  # before the swap of this step
        queries = embed_queries(live(step), run.refresher.probes, world.corpus.special).numpy().astype(np.float64)
        stale = np.load(run.folder / "snapshots" / str(built) / "embeddings.npy").astype(np.float64)
        candidates = np.argsort(-queries @ stale.T, axis=1, kind="stable")[:, :20]
        expected = shared(brute_top(snapshot(built), run, world, None), brute_top(live(step), run, world, candidates))
        assert value == pytest.approx(expected)
    assert 0 < min(agreement.values()) < 1 and 0 < max(churn.values()) < 1


def test_agreement_below__refreshes_when_the_retriever_has_moved_on(make: Make) -> None:
    run = make(every=None, measure_every=2, agreement_below=0.7, keep=True).fit()
    agreement = run.logged("agreement")
    fell = [step for step, agreed in agreement.items() if agreed < 0.7]
    assert fell and [0, *fell] == run.left()
    assert run.seen.index_steps == [max(s for s in run.left() if s <= step) for step in range(STEPS)]
    assert make("never", every=None, measure_every=2, agreement_below=0.0, keep=True).fit().left() == [0]


def test_agreement_below__falls_at_the_same_steps_after_a_resume(make: Make) -> None:
    settings = {"every": None, "measure_every": 2, "agreement_below": 0.7, "mode": "async", "swap_after": 3}
    undisturbed = make(**settings).fit()
    for step in (7, 13):
        stop(make("stopped", **settings), step)
    again = make("stopped", **settings).fit()
    agreement = again.logged("agreement")
    assert agreement == {step: v for step, v in undisturbed.logged("agreement").items() if step in agreement}
    assert_same(again, undisturbed)


# ---- what is left on the disk ----


def test_keep__leaves_all_snapshots(make: Make) -> None:
    assert make(every=2, keep=True).fit().left() == list(range(0, STEPS, 2))


def test_snapshots__are_removed_once_no_checkpoint_names_them(make: Make) -> None:
    run = make(every=1).fit()
    assert max(map(len, run.seen.snapshots)) <= 3
    assert not list((run.folder / "snapshots").glob("*.tmp"))


@pytest.mark.parametrize("settings", [{}, {"mode": "async", "swap_after": 1}])
def test_resume__retrieves_from_the_index_that_the_checkpoint_was_training_with(
    make: Make, settings: dict[str, Any]
) -> None:
    """Two swaps since the checkpoint of step 5: neither may take away what that one needs."""
    undisturbed = stop(make(every=2, steps=50, keep=True, **settings), 12)
    stop(make("stopped", every=2, steps=50, **settings), 9)
    again = stop(make("stopped", every=2, steps=50, **settings), 12)
    assert again.seen.index_steps == undisturbed.seen.index_steps[5:]
    assert_same(again, undisturbed)
    assert 4 in again.left()
    for step in again.left():
        left, right = (run.folder / f"snapshots/{step}/retriever/model.safetensors" for run in (again, undisturbed))
        assert left.read_bytes() == right.read_bytes(), step


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("swap_after", [4, None])
def test_resume__goes_on_in_the_middle_of_a_build(make: Make, swap_after: int | None, built: bool) -> None:
    settings = {"every": 5, "mode": "async", "swap_after": swap_after}
    undisturbed = make(**settings).fit()
    stopped = make("stopped", **settings)

    class Wait(pl.Callback):
        """Ends the build, or lets it end, before the run is stopped."""

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step == 7:
                builder = stopped.refresher.builder
                assert stopped.refresher.pending == 5 and builder is not None
                if built:
                    builder.wait()
                else:
                    builder.stop()
                raise Boom

    with pytest.raises(Boom):
        stopped.fit(Wait())
    assert (stopped.folder / "snapshots" / "5" / "index").is_dir() == built
    again = make("stopped", **settings).fit()
    swapped = 9 if swap_after else (6 if built else 9)
    assert next(step for step in range(6, STEPS) if again.seen.index_steps[step - 6] == 5) == swapped
    if swap_after:
        assert again.seen.index_steps == undisturbed.seen.index_steps[6:]
        assert_same(again, undisturbed)


def test_async__says_what_to_do_when_the_builder_was_killed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_refresh, "Builder", Builder)
    run = make(every=5, mode="async", swap_after=3)

    class Kill(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step == 5:
                os.kill(run.refresher.builder._process.pid, signal.SIGKILL)

    with pytest.raises(StageError, match=r"(?s)SIGKILL.*memory ran out.*index_refresh\.mode: sync.*builder\.log"):
        run.fit(Kill())
    monkeypatch.setattr(index_refresh, "Builder", InProcess)
    assert make(every=5, mode="async", swap_after=3).fit().seen.index_steps == [5] * 5 + [10] * 5 + [15] * 2
    assert not list((run.folder / "snapshots").glob("**/*.tmp"))


def test_builder__ends_with_the_run_whatever_ends_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_refresh, "Builder", Builder)
    run = make(every=5, mode="async", swap_after=10)
    builders: list[Any] = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step == 5:
                builders.append(run.refresher.builder._process)

    with pytest.raises(Boom):
        run.fit(Watch(), StopAt(6))
    assert builders[0].poll() == -signal.SIGKILL
    again = make(every=5, mode="async", swap_after=10, steps=7).fit(Watch())  # ends before the swap
    assert again.refresher.pending == 5 and again.refresher.builder is None
