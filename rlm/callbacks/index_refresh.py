"""Rebuilds the passage index while a retriever trains (REALM, section 3.3), and measures how stale it is."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from numpy.typing import NDArray

from rlm.data.tokens import Ragged
from rlm.models.realm import Realm
from rlm.retrieval.config import IndexConfig, IndexRefresh
from rlm.retrieval.encoder import DualEncoder, embed_queries
from rlm.retrieval.refresh import Builder, agreement, build_snapshot_index, open_snapshot, write_snapshot


class IndexRefresher(pl.Callback):
    """Snapshots the retriever, has an index built from it, and swaps it in between two optimizer steps.

    Rank 0 builds; all ranks swap at the same step. Snapshots lie in `folder/<step>/`; those that the last checkpoint
    names are kept, so that a resumed run retrieves from the very index it was stopped with.

    Args:
        config: when and how.
        index: kind of index built from each snapshot.
        corpus: folder of the corpus stage.
        folder: where the snapshots go.
        probes: queries on which agreement and churn are measured (word pieces, one row each).
        record: receives metrics that belong to a step: churn at a swap, agreement between swaps.
        keep: leave all snapshots for later evaluation, not only the one in use.
        k: size of the top k compared.
        threads: cores of the builder, where it is another process.
    """

    def __init__(
        self,
        config: IndexRefresh,
        index: IndexConfig,
        corpus: Path,
        folder: Path,
        probes: Ragged,
        record: Callable[[dict[str, float], int], None],
        *,
        keep: bool = False,
        k: int = 5,
        threads: int = 1,
    ) -> None:
        self.config, self.index_config, self.corpus, self.folder = config, index, corpus, folder
        # not `self.log`: Lightning replaces that attribute of every callback
        self.probes, self.record, self.keep, self.k, self.threads = probes, record, keep, k, threads
        self.snapshot = 0
        self.pending: int | None = None
        self.builder: Builder | None = None
        # what the last two checkpoints name: the newer one may not be on the disk yet
        self._named: tuple[set[int], set[int]] = set(), set()
        self._indexed_top: NDArray[np.int64] | None = None

    def state_dict(self) -> dict[str, Any]:
        if self._in_use() != self._named[1]:
            self._named = self._named[1], self._in_use()
        return {"snapshot": self.snapshot, "pending": self.pending}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.snapshot, self.pending = state_dict["snapshot"], state_dict["pending"]
        self._named = self._in_use(), self._in_use()

    def _in_use(self) -> set[int]:
        return {self.snapshot} if self.pending is None else {self.snapshot, self.pending}

    # ---- swaps ----

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Realm)
        if trainer.is_global_zero and not self._built(self.snapshot):
            self._write(pl_module, self.snapshot)
            self._build(pl_module, self.snapshot)
        trainer.strategy.barrier("first index")
        self._swap(trainer, pl_module, self.snapshot)
        if self.pending is not None and trainer.is_global_zero and not self._built(self.pending):
            self._start(pl_module, self.pending)  # the build was lost with the interrupted process

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        assert isinstance(pl_module, Realm)
        config, step = self.config, trainer.global_step
        if self.pending is not None and self._ready(trainer, step):
            self._swap(trainer, pl_module, self.pending)
        due = step > self.snapshot and config.every is not None and step % (config.every * config.staleness) == 0
        if step > self.snapshot and step % config.measure_every == 0 and len(self.probes):
            agreed = self._measure(trainer, pl_module, step)
            due = due or (config.agreement_below is not None and agreed < config.agreement_below)
        if due and self.pending is None:
            self._refresh(trainer, pl_module, step)

    def _refresh(self, trainer: pl.Trainer, module: Realm, step: int) -> None:
        if trainer.is_global_zero:
            self._write(module, step)
        if self.config.mode == "sync":
            if trainer.is_global_zero and not self._built(step):
                self._build(module, step)
            trainer.strategy.barrier("index built")
            self._swap(trainer, module, step)
        else:
            if trainer.is_global_zero:
                self._start(module, step)
            self.pending = step

    def _ready(self, trainer: pl.Trainer, step: int) -> bool:
        assert self.pending is not None
        if self.config.swap_after is not None:
            if step < self.pending + self.config.swap_after:
                return False
            if self.builder is not None:
                self.builder.wait()
            trainer.strategy.barrier("index built")
            return True
        # a resumed run has no builder where the index was finished before
        finished = trainer.is_global_zero and (self.builder is None or self.builder.poll())
        return bool(trainer.strategy.broadcast(finished))

    def _swap(self, trainer: pl.Trainer, module: Realm, step: int) -> None:
        self.snapshot, self.builder = step, None
        if self.pending == step:
            self.pending = None
        module.index, module.index_step = open_snapshot(self.folder / str(step), module.device), step
        if len(self.probes):
            top = self._top(module)
            if self._indexed_top is not None and trainer.is_global_zero:
                churn = 1 - agreement(self._indexed_top, top)
                self.record({"churn": churn, "swap_delay": float(trainer.global_step - step)}, trainer.global_step)
            self._indexed_top = top
        if trainer.is_global_zero and not self.keep:
            self._discard(self._in_use().union(*self._named))

    def _discard(self, kept: set[int]) -> None:
        for folder in self.folder.iterdir():
            if folder.name.isdigit() and int(folder.name) < self.snapshot and int(folder.name) not in kept:
                part = folder.with_name(f"{folder.name}.tmp")  # half a folder is never taken for a snapshot
                shutil.rmtree(part, ignore_errors=True)
                os.replace(folder, part)
                shutil.rmtree(part)

    # ---- builds ----

    def _built(self, step: int) -> bool:
        return (self.folder / str(step) / "index").is_dir()

    def _write(self, module: Realm, step: int) -> None:
        if not (self.folder / str(step)).is_dir():
            write_snapshot(module.retriever, self.folder, step)

    def _build(self, module: Realm, step: int) -> None:
        build_snapshot_index(self.folder / str(step), self.corpus, self.index_config, device=module.device)

    def _start(self, module: Realm, step: int) -> None:
        device = "cpu" if module.device.type == "cpu" else None
        self.builder = Builder(self.corpus, self.index_config, threads=self.threads, device=device)
        self.builder.start(self.folder / str(step))

    # ---- measurements ----

    def _top(self, module: Realm) -> NDArray[np.int64]:
        """The top k of the probes by the retriever that the index was built from, whatever step it is now."""
        indexed = DualEncoder.load(self.folder / str(self.snapshot) / "retriever").to(module.device)
        queries = embed_queries(indexed, self.probes, module.corpus.special)
        return module.index.search(queries, self.k)[1].cpu().numpy()

    def _measure(self, trainer: pl.Trainer, module: Realm, step: int) -> float:
        """Agreement of the top k by the live retriever with that by the indexed one, the same on every rank."""
        training = module.training
        module.eval()
        live = module.rescored_top(self.probes, self.k)
        module.train(training)
        assert self._indexed_top is not None
        agreed = agreement(self._indexed_top, live)
        if trainer.is_global_zero:
            self.record({"agreement": agreed}, step)
        return float(trainer.strategy.broadcast(agreed))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.builder is not None:
            self.builder.stop()
            self.builder = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # Lightning itself does not
