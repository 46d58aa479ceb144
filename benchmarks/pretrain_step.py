"""REALM pre-training steps per second, against the forward and backward passes of the same batches alone.

The peer replays prepared batches through retriever and encoder, with the marginal loss and the optimizer but without
data, retrieval, callbacks, checkpoints or logging: what is missing from 1.00 is what those cost. Then the same training
while another process builds one index after the other, each process on its own core: what asynchronous refresh costs.

    python benchmarks/pretrain_step.py
    python benchmarks/pretrain_step.py --store runs --steps 40 --out FILE.md
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from rlm.callbacks.index_refresh import IndexRefresher
from rlm.callbacks.masking import Masking
from rlm.config import Runtime
from rlm.data.corpus import Corpus
from rlm.data.datamodules import MaskedSentences
from rlm.data.salient_spans import SalientSpanTable
from rlm.launch import FEWER_KERNELS, KEEP_FREED_MEMORY
from rlm.models.marginal import marginal_log_likelihood
from rlm.models.optimizer import configure
from rlm.models.realm import KnowledgeAugmentedEncoder, Realm
from rlm.retrieval.config import IndexRefresh
from rlm.retrieval.encoder import DualEncoder
from rlm.retrieval.refresh import build_snapshot_index, open_snapshot, write_snapshot
from rlm.stages.pretrain import probe_queries
from rlm.stages.store import run_stage, stage_folder
from rlm.stages.training import fit
from rlm.table import load_table

TABLE = Path(__file__).parent.parent / "experiments" / "realm_table2.yaml"


class Silent:
    """Neither shows nor keeps anything."""

    seed, threads = 0, 1
    runtime = Runtime()

    def log(self, metrics: Any, step: int) -> None: ...

    def all_read(self) -> None: ...
    def progress(self, done: int, total: int, shown: Any = None, **more: float) -> None: ...
    def note(self, text: str) -> None: ...


class Clock(pl.Callback):
    """Steps per second between the ends of the first and the last step: not what a start costs."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def rate(self) -> float:
        return (len(self.ends) - 1) / (self.ends[-1] - self.ends[0])


def prepared(module: Realm, sentences: MaskedSentences, step: int) -> dict[str, Any]:
    """A batch with its candidates: what the peer gets for free."""
    batch = sentences(step, 0, 1)
    with torch.no_grad():
        passages = module.retrieve(batch["masked"], batch["source"]).passages
    return {**batch, "passages": passages}


def alone(module: Realm, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        scores = module.score(module.embed_queries(batch["masked"]), batch["passages"])
        likelihood = module.log_likelihood(batch, batch["passages"])
        mask = batch["positions"] >= 0
        loss = -marginal_log_likelihood(scores, likelihood, mask, "per_token").sum() / mask.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", type=Path, help="store with the corpora of tiny (default: they are made anew)")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = load_table(TABLE, "tiny", rows=("REALM",), seeds=(0,))
    (cell,) = table.cells(lambda source: "")
    experiment = table.rows["REALM"]
    with tempfile.TemporaryDirectory() as name:
        store = options.store or Path(name)
        for role in ("corpus", "text", "salient_spans"):
            run_stage(cell.stages[role], store, Runtime(store=store), Silent())  # type: ignore[arg-type]
        folders = {role: stage_folder(store, cell.stages[role]) for role in ("corpus", "text", "salient_spans")}
        corpus, text = Corpus.open(folders["corpus"]), Corpus.open(folders["text"])
        config = replace(experiment.pretrain, training=replace(experiment.pretrain.training, steps=options.steps))
        sentences = MaskedSentences.of(text, SalientSpanTable.open(folders["salient_spans"]), config, 0)
        sentences.scheme = config.masking
        torch.manual_seed(0)
        retriever = DualEncoder(experiment.retriever, corpus.vocab_size)
        encoder = KnowledgeAugmentedEncoder(experiment.encoder, corpus.vocab_size)
        module = Realm(retriever, encoder, corpus, config)
        snapshot = write_snapshot(retriever, Path(name) / "snapshots", 0)
        build_snapshot_index(snapshot, folders["corpus"], experiment.index)
        module.index, module.index_step = open_snapshot(snapshot), 0
        optimizer = configure(module, config.training)["optimizer"]
        probes = probe_queries(sentences, 64)

        def trained(refresh: IndexRefresh | None) -> float:
            clock = Clock()
            with tempfile.TemporaryDirectory() as work:
                callbacks: list[pl.Callback] = [Masking(config.masking), clock]
                if refresh:
                    where = Path(work) / "snapshots"
                    callbacks.append(
                        IndexRefresher(refresh, experiment.index, folders["corpus"], where, probes, lambda *_: None)
                    )
                fit(module, sentences, config.training, Path(work), Silent(), callbacks)  # type: ignore[arg-type]
            return clock.rate

        lines = [
            f"{date.today()}, one thread a process, torch {torch.__version__}; steps/s over {options.steps} steps of "
            f"{config.training.batch_size} sentences",
            "",
            "| round | matrix products alone | training | ratio | training, index built beside it | slower by |",
            "|--:|--:|--:|--:|--:|--:|",
        ]
        print("\n".join(lines), flush=True)
        ratios, slower = [], []
        for turn in range(options.rounds + 1):
            batches = [prepared(module, sentences, step) for step in range(options.steps)]
            module.train()
            ends = []
            for batch in batches:
                alone(module, optimizer, batch)
                ends.append(time.perf_counter())
            bare = (options.steps - 1) / (ends[-1] - ends[0])
            ours = trained(None)
            beside = trained(IndexRefresh(every=1, mode="async", measure_every=1_000_000))
            if turn:  # the first round warms up
                ratios.append(ours / bare)
                slower.append(1 - beside / ours)
                cells = [f"{turn}", f"{bare:.2f}", f"{ours:.2f}", f"{ours / bare:.2f}", f"{beside:.2f}"]
                lines.append(f"| {' | '.join(cells)} | {slower[-1]:.0%} |")
                print(lines[-1], flush=True)
    cells = ["median", "", "", f"{statistics.median(ratios):.2f}", "", f"{statistics.median(slower):.0%}"]
    lines.append(f"| {' | '.join(cells)} |")
    print(lines[-1])
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    launched = KEEP_FREED_MEMORY | FEWER_KERNELS  # as `rlm run` starts its processes
    if not launched.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **launched})
    main()
