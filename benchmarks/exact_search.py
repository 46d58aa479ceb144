"""Exact search against faiss's flat index at its fastest setting, on the same embeddings, in turn.

For random embeddings and for clustered ones (topics of unequal size around a common direction, as encoders give), and
at batches of 64 and 1,024 queries, prints queries/s of both, their ratio (median over rounds), the rate of the bfloat16
products alone, which is the limit of our scan, and for how many of a sample of queries the ids are those of a brute
force in float64. Ends with status 1 if any differs.

    python benchmarks/exact_search.py [--passages 1000000] [--rounds 5] [--threads N] [--out FILE.md]
"""

import argparse
import itertools
import platform
import statistics
import sys
import time
from datetime import date
from pathlib import Path

import faiss
import numpy as np
import torch
from torch import Tensor

from rlm.retrieval.config import ExactIndex
from rlm.retrieval.exact import BLOCK, Exact

WIDTH = 128
TOPICS = 2_000
SPREAD = 0.7
"""Length of what sets a passage apart from its topic, where topics have length 1."""
BLOCK_ROWS = 1 << 16


def unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def random_embeddings(passages: int, queries: int) -> tuple[Tensor, Tensor]:
    return unit(torch.randn(passages, WIDTH)), unit(torch.randn(queries, WIDTH))


def clustered_embeddings(passages: int, queries: int) -> tuple[Tensor, Tensor]:
    """Topics of Zipf's sizes, all on one side of the sphere; queries are near some passage."""
    topics = unit(unit(torch.randn(TOPICS, WIDTH)) + unit(torch.randn(1, WIDTH)))
    topic = torch.multinomial(1 / torch.arange(1.0, TOPICS + 1), passages, replacement=True)
    embeddings = unit(topics[topic] + SPREAD * unit(torch.randn(passages, WIDTH)))
    near = embeddings[torch.randint(passages, (queries,))]
    return embeddings, unit(near + SPREAD * unit(torch.randn(queries, WIDTH)))


def brute_force(embeddings: Tensor, queries: Tensor, k: int) -> np.ndarray:
    """Ids of the k best in float64, [queries, k]."""
    exact, every = queries.double().numpy(), embeddings.numpy()
    scores, ids = np.zeros((len(exact), 0)), np.zeros((len(exact), 0), np.int64)
    for start in range(0, len(every), BLOCK_ROWS):
        block = exact @ every[start : start + BLOCK_ROWS].astype(np.float64).T
        scores = np.concatenate([scores, block], axis=1)
        ids = np.concatenate([ids, np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)], axis=1)
        best = np.lexsort((ids, -scores), axis=1)[:, :k]
        scores, ids = np.take_along_axis(scores, best, 1), np.take_along_axis(ids, best, 1)
    return ids


def products(embeddings: Tensor, queries: Tensor) -> None:
    """The products of the scan, and nothing else."""
    step = BLOCK["cpu"] // len(queries)
    for start in range(0, len(embeddings), step):
        torch.mm(embeddings[start : start + step], queries.T)


def rates(ours: Exact, theirs: faiss.IndexFlatIP, low: Tensor, queries: Tensor, k: int) -> tuple[float, float, float]:
    """Queries/s of ours, of faiss and of the products alone, one after the other."""
    arrays, half = queries.numpy(), queries.bfloat16()
    times = [time.perf_counter()]
    for search in (lambda: ours.search(queries, k), lambda: theirs.search(arrays, k), lambda: products(low, half)):
        search()
        times.append(time.perf_counter())
    return tuple(len(queries) / (end - start) for start, end in itertools.pairwise(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 1024], help="queries searched together")
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="times that both are measured, in turn")
    parser.add_argument("--sample", type=int, default=64, help="queries compared with brute force")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=None, help="also write the table to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    faiss.cvar.distance_compute_blas_threshold = 1  # tuned: matrix products whatever the batch
    torch.manual_seed(0)

    lines = [
        f"{date.today()}, {platform.processor() or platform.machine()}, {options.threads} threads, torch "
        f"{torch.__version__}, faiss {faiss.__version__}; {options.passages:,} passages x {WIDTH} float32, "
        f"top {options.k}",
        "",
        "| embeddings | batch | ours, queries/s | tuned faiss | ratio | products alone | ids as brute force |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    print("\n".join(lines), flush=True)
    same = True
    for name, make in (("random", random_embeddings), ("clustered", clustered_embeddings)):
        embeddings, queries = make(options.passages, max([*options.batches, options.sample]))
        ours, theirs = Exact(ExactIndex(), embeddings), faiss.IndexFlatIP(WIDTH)
        theirs.add(embeddings.numpy())
        low = embeddings.bfloat16()
        sample = queries[: options.sample]
        equal = (ours.search(sample, options.k)[1].numpy() == brute_force(embeddings, sample, options.k)).all(1)
        same &= bool(equal.all())
        for batch in options.batches:
            measured = [rates(ours, theirs, low, queries[:batch], options.k) for _ in range(options.rounds + 1)][1:]
            mine, other, limit = (statistics.median(column) for column in zip(*measured, strict=True))
            ratio = statistics.median(row[0] / row[1] for row in measured)
            cells = [name, f"{batch:,}", f"{mine:,.0f}", f"{other:,.0f}", f"{ratio:.2f}", f"{limit:,.0f}"]
            lines.append("| " + " | ".join([*cells, f"{equal.sum()} of {len(equal)}"]) + " |")
            print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")
    if not same:
        sys.exit("ids differ from brute force")


if __name__ == "__main__":
    main()
