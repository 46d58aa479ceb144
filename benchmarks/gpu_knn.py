"""One GPU: exact search of a datastore of ten million keys, and perplexity by datastore on real articles.

First the search of clustered keys that lie on the GPU, by queries that are searched together and by k, beside what
bounds it, all measured here: the products alone, those with torch's `topk`, and reading what is scanned once (at the
rate at which the GPU copies); distances are compared with those of a loop in float64.
Then rows of `experiments/knn_lm_datastore.yaml` as `rlm run` runs them, until `--minutes` are over.

    PYTHONPATH=. python benchmarks/gpu_knn.py --data DATA --out benchmarks/results/gpu_knn.md
    PYTHONPATH=. python benchmarks/gpu_knn.py --keys 100000 --width 64 --scale tiny --minutes 3
"""

import argparse
import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu_table2 import report, rows, seconds
from benchmarks.knn_lm import write
from rlm.retrieval.config import ExactIndex
from rlm.retrieval.datastore import Datastore
from rlm.retrieval.datastore_search import ExactSearch
from rlm.retrieval.exact import QUERIES
from rlm.retrieval.segment import SCORES

TABLE = Path(__file__).parent.parent / "experiments" / "knn_lm_datastore.yaml"
CHECKED = 8
"""Queries whose neighbours are compared."""


def farther(keys: Tensor, queries: Tensor, ids: Tensor) -> float:
    """How much farther the farthest of the keys that were found is than the k-th nearest, by a loop in float64: at most
    over some queries, as a share of the distance."""
    excess = []
    for query, found in zip(queries[:CHECKED].to(keys.device).double(), ids.to(keys.device), strict=False):
        distances = torch.cat([(some.double() - query).square().sum(1) for some in keys.split(1 << 20)])
        excess.append(float(distances[found].max() / distances.kthvalue(len(found)).values - 1))
    return max(excess)


def searching(store: Datastore, queries: Tensor, ks: Sequence[int], device: torch.device) -> list[str]:
    """A table of times, as `rlm` searches and as what bounds it."""
    search = ExactSearch(store, ExactIndex(), [str(device)])
    assert search._held is not None, "the keys do not fit on the GPU: search fewer"
    (segment,) = search._held
    scanned = segment._scanned
    size = scanned.numel() * scanned.element_size()
    some = scanned[: 1 << 20]
    read = seconds(some.clone, device) * len(scanned) / len(some) / 2  # copying reads and writes
    lines = [
        "| queries together | k | rlm, ms | products alone | products and topk of blocks | keys read once "
        "| rlm to products | rlm to reading | farther than in float64 |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for together in (QUERIES // 8, QUERIES):
        asked = queries[:together]
        wide = segment._lowered(asked.to(device))[1]
        step = max(1, SCORES[device.type] // together)

        def products(k: int = 0, wide: Tensor = wide, step: int = step) -> None:
            for some in scanned.split(step):
                scores = wide @ some.T
                if k:
                    scores.topk(min(k, len(some)), dim=1, sorted=False)

        alone = seconds(products, device)
        for k in ks:
            took = seconds(lambda k=k, asked=asked: search.search(asked, k), device)
            topk = seconds(lambda k=k, products=products: products(k), device)
            times = [f"{1e3 * spent:.1f}" for spent in (took, alone, topk, read)]
            wrong = farther(segment.embeddings, asked, search.search(asked, k)[1])
            cells = [f"{together}", f"{k:,}", *times, f"{took / alone:.1f}", f"{took / read:.1f}", f"{wrong:.1e}"]
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", f"{size / 1e9:.1f} GB are scanned, at {size / read / 1e9:,.0f} GB/s."]


def searched(keys: int, width: int, ks: Sequence[int], device: torch.device) -> list[str]:
    """The table of a datastore that is made for it."""
    with tempfile.TemporaryDirectory() as folder:
        return searching(*write(Path(folder), keys, width, device), ks, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--ks", type=int, nargs="+", default=[8, 1024])
    parser.add_argument("--data", type=Path, help="folder of real data, as `rlm run` takes it")
    parser.add_argument("--scale", default="mini")
    parser.add_argument("--rows", default="LM,10 % of the datastore,100 % of the datastore,More than it was trained on")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="as `rlm run` takes it")
    parser.add_argument("--minutes", type=float, default=7.0, help="for the rows")
    parser.add_argument("--store", type=Path, default=Path("runs") / "gpu")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    device, tell = report(options.out)
    # a process of its own leaves all of the GPU to the rows
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        lines = pool.submit(searched, options.keys, options.width, options.ks, device).result()
    tell(f"Exact search of {options.keys:,} keys x {options.width} in float16:", "", *lines)
    tell(rows(options, TABLE))


if __name__ == "__main__":
    main()
