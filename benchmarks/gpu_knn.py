"""One GPU: exact search of a datastore of ten million keys, and perplexity by datastore on real articles.

First the search of clustered keys that lie on the GPU, to what bounds it: reading what is scanned once for each group
of queries, the products alone (both measured here), and the products with torch's `topk`; ids are compared with
float64.
Then rows of `experiments/knn_lm_datastore.yaml` as `rlm run` runs them, until `--minutes` are over.

    PYTHONPATH=. python benchmarks/gpu_knn.py --data DATA --out benchmarks/results/gpu_knn.md
    PYTHONPATH=. python benchmarks/gpu_knn.py --keys 100000 --width 64 --scale tiny --minutes 3
"""

import argparse
import tempfile
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
"""Queries whose ids are compared."""


def same_ids(keys: Tensor, queries: Tensor, ids: Tensor) -> float:
    """Share of the neighbours that a comparison in float64 finds, too."""
    nearest = []
    for query in queries[:CHECKED].to(keys.device).double():
        distances = torch.cat([(some.double() - query).square().sum(1) for some in keys.split(1 << 20)])
        nearest.append(set(distances.topk(ids.shape[1], largest=False).indices.tolist()))
    found = (len(near & set(row)) for near, row in zip(nearest, ids.tolist(), strict=False))
    return sum(found) / (len(nearest) * ids.shape[1])


def searching(store: Datastore, queries: Tensor, k: int, device: torch.device) -> list[str]:
    """A table of queries/s, as `rlm` searches and as what bounds it."""
    search = ExactSearch(store, ExactIndex(), [str(device)])
    segment = search._held[0]  # type: ignore[index]
    scanned, keys = segment._scanned, segment.embeddings
    groups = list(queries.to(device, scanned.dtype).split(QUERIES))
    step = max(1, SCORES[device.type] // QUERIES)

    def read() -> None:
        for _ in groups:
            scanned.view(torch.int16).sum()

    def products(largest: bool) -> None:
        for group in groups:
            for some in scanned.split(step):
                scores = group @ some[:, : store.dim].T
                if largest:
                    scores.topk(min(k, len(some)), dim=1, sorted=False)

    works = {
        "rlm": lambda: search.search(queries, k),
        "what is scanned, read once for each 512 queries": read,
        "the products alone": lambda: products(False),
        "the products with topk (each block)": lambda: products(True),
    }
    took = {name: seconds(work, device) for name, work in works.items()}
    lines = ["| | queries/s | time of rlm's |", "|---|--:|--:|"]
    lines += [f"| {name} | {len(queries) / spent:,.0f} | {spent / took['rlm']:.0%} |" for name, spent in took.items()]
    size = scanned.numel() * scanned.element_size() * len(groups)
    share = same_ids(keys, queries, search.search(queries[:CHECKED], k)[1])
    read_in = f"read at {size / took['what is scanned, read once for each 512 queries'] / 1e9:,.0f} GB/s"
    return [*lines, "", f"{read_in}; {share:.2%} of the ids as in float64 ({CHECKED} queries)."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--k", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=2048)
    parser.add_argument("--data", type=Path, help="folder of real data, as `rlm run` takes it")
    parser.add_argument("--scale", default="mini")
    parser.add_argument("--rows", default="LM,10 % of the datastore,100 % of the datastore,More than it was trained on")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="as `rlm run` takes it")
    parser.add_argument("--minutes", type=float, default=7.0, help="for the rows")
    parser.add_argument("--store", type=Path, default=Path("runs") / "gpu")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    device, tell = report(options.out)
    with tempfile.TemporaryDirectory() as folder:
        store, queries = write(Path(folder), options.keys, options.width)
        tell(
            f"Exact search of {options.keys:,} keys x {options.width} in float16, k = {options.k:,}:",
            "",
            *searching(store, queries[: options.queries], options.k, device),
        )
    tell(rows(options, TABLE))


if __name__ == "__main__":
    main()
