"""REALM pre-training steps per second, against the forward and backward passes of the same batches alone.

The peer replays prepared tensors through retriever and encoder, with the marginal loss and the optimizer but without
data, retrieval, callbacks or logging: what is missing from 1.00 is what those cost.

    python benchmarks/pretrain_step.py
    python benchmarks/pretrain_step.py --store runs --steps 40
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlm.callbacks.masking import Masking
from rlm.config import Runtime
from rlm.data.corpus import Corpus
from rlm.data.datamodules import MaskedSentences
from rlm.data.salient_spans import SalientSpanTable
from rlm.models.marginal import marginal_log_likelihood
from rlm.models.optimizer import configure
from rlm.models.realm import KnowledgeAugmentedEncoder, Realm
from rlm.retrieval.encoder import DualEncoder
from rlm.retrieval.refresh import build_snapshot_index, open_snapshot, write_snapshot
from rlm.stages.store import run_stage, stage_folder
from rlm.stages.training import fit
from rlm.table import load_table

TABLE = Path(__file__).parent.parent / "experiments" / "realm_table2.yaml"


class Silent:
    """Neither shows nor keeps anything."""

    seed, threads = 0, 1
    runtime = Runtime()

    def log(self, metrics: Any, step: int) -> None: ...
    def progress(self, done: int, total: int, shown: Any = None, **more: float) -> None: ...
    def note(self, text: str) -> None: ...


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
    options = parser.parse_args()
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
        ratios = []
        for turn in range(options.rounds + 1):
            batches = [prepared(module, sentences, step) for step in range(options.steps)]
            module.train()
            start = time.perf_counter()
            for batch in batches:
                alone(module, optimizer, batch)
            bare = options.steps / (time.perf_counter() - start)
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as work:
                fit(module, sentences, config.training, Path(work), Silent(), [Masking(config.masking)])  # type: ignore[arg-type]
            ours = options.steps / (time.perf_counter() - start)
            if turn:  # the first round warms up
                ratios.append(ours / bare)
                print(
                    f"alone {bare:.2f} steps/s   fit (with start and checkpoints) {ours:.2f}   ratio {ours / bare:.2f}"
                )
    print(
        f"{torch.get_num_threads()} threads: median ratio {statistics.median(ratios):.2f} over {np.size(ratios)} rounds"
    )


if __name__ == "__main__":
    main()
