"""kNN-LM evaluation over a datastore: searches beside faiss's flat index in turn, and what the grid costs.

Keys are clustered as states are (topics of unequal size, unequal lengths). For each search, tokens/s of batches of
`--batch` queries with k neighbours (search, values, and p_kNN at one temperature), its ratio to faiss's flat index at
its fastest setting in the same round, and its ratio to what knn-transformers reached on such a machine (2 cores, 1M x
128 keys, k = 1,024: exact 33, IVF-PQ 526, with recomputed distances 274 tokens/s); recall@k of the approximate ones;
and the grid of 10 lambdas x 5 temperatures x 5 ks as a share of one pass of each search.

    python benchmarks/knn_lm.py [--keys 1000000] [--width 128] [--k 1024] [--rounds 3] [--threads N] [--out FILE.md]
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from rlm.launch import FEWER_KERNELS, KEEP_FREED_MEMORY
from rlm.models.knn import grid_nats, knn_log_probability, prefix_log_probabilities
from rlm.models.knn_config import SHARES, TEMPERATURES, WEIGHTS
from rlm.retrieval.config import ExactIndex, FaissFlat, FaissIvfPq
from rlm.retrieval.datastore import Datastore
from rlm.retrieval.datastore_search import ExactSearch, FaissSearch, build_faiss
from rlm.retrieval.datastore_writer import DatastoreWriter

TOPICS, SPREAD, VOCABULARY = 20_000, 0.7, 50_257
PEER = {"exact": 33.0, "IVF-PQ": 526.0, "IVF-PQ, recomputed": 274.0}
"""knn-transformers, tokens/s."""
ROWS = 1 << 16


def states(count: int, width: int, topics: Tensor, generator: torch.Generator) -> Tensor:
    """States around topics of Zipf's sizes."""
    sizes = 1 / torch.arange(1.0, len(topics) + 1, device=topics.device)
    topic = torch.multinomial(sizes, count, replacement=True, generator=generator)
    return topics[topic] + SPREAD * torch.randn(count, width, generator=generator, device=topics.device)


def write(folder: Path, keys: int, width: int, device: torch.device | str = "cpu") -> tuple[Datastore, Tensor]:
    """A datastore of so many keys in float16, and queries; the device makes them."""
    generator = torch.Generator(device).manual_seed(0)
    topics = torch.randn(min(TOPICS, keys), width, generator=generator, device=device)
    writer = DatastoreWriter(folder, width, VOCABULARY, {"model": "random", "key": "random"})
    for low in range(0, keys, ROWS):
        some = states(min(ROWS, keys - low), width, topics, generator)
        writer.append(some, torch.randint(VOCABULARY, (len(some),), generator=generator, device=device))
    writer.close()
    return Datastore.open(folder, whole=False), states(4096, width, topics, generator).cpu()


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--k", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=512, help="tokens of a batch of windows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lists", type=int, default=4096)
    parser.add_argument("--probes", type=int, default=32)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=None, help="also write the table to this file")
    options = parser.parse_args()
    import faiss  # others import from here without it

    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        store, queries = write(Path(folder), options.keys, options.width)
        quantised = FaissIvfPq(lists=options.lists, sub_quantizers=64, probes=options.probes, rerank=0)
        index = build_faiss(quantised, store)
        recomputed = FaissIvfPq(lists=options.lists, sub_quantizers=64, probes=options.probes, rerank=1)
        searches = {
            "faiss flat": FaissSearch(store, FaissFlat(), build_faiss(FaissFlat(), store)),
            "exact": ExactSearch(store, ExactIndex()),
            "IVF-PQ": FaissSearch(store, quantised, index),
            "IVF-PQ, recomputed": FaissSearch(store, recomputed, index),
        }
        asked = queries[: options.batch]
        targets = torch.randint(VOCABULARY, (options.batch,))

        def evaluate(name: str) -> None:
            distances, ids = searches[name].search(asked, options.k)
            knn_log_probability(distances, torch.from_numpy(store.take_values(ids.numpy())), targets, 10.0)

        times: dict[str, list[float]] = {name: [] for name in searches}
        for turn in range(options.rounds + 1):
            for name, found in times.items():
                spent = seconds(lambda name=name: evaluate(name))
                if turn:  # the first warms up
                    found.append(spent)
        best = searches["exact"].search(asked, options.k)
        neighbours = torch.from_numpy(store.take_values(best[1].numpy()))
        lm, nearest = torch.full((options.batch,), -3.0), float(best[0][:, 0].mean())
        ks = sorted({max(1, round(share * options.k)) for share in SHARES})

        def grid() -> None:
            knn = prefix_log_probabilities(best[0], neighbours, targets, [nearest * t for t in TEMPERATURES], ks)
            grid_nats(lm, knn, WEIGHTS)

        of_grid = statistics.median(seconds(grid) for _ in range(options.rounds))
        lines = [
            f"{date.today()}, {platform.processor() or platform.machine()}, {options.threads} threads, torch "
            f"{torch.__version__}, faiss {faiss.__version__}; {options.keys:,} keys x {options.width} float16, k = "
            f"{options.k:,}, batches of {options.batch} tokens, {index.nlist:,} lists, {options.probes} probes, 64 "
            "sub-quantizers",
            "",
            "| search | tokens/s | of faiss flat | of knn-transformers | recall@k | the grid, share of it |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for name, found in times.items():
            ids = searches[name].search(asked[:64], options.k)[1]
            hits = sum(len(set(one) & set(other)) for one, other in zip(ids.tolist(), best[1].tolist(), strict=False))
            rate = options.batch / statistics.median(found)
            ratio = statistics.median(flat / own for flat, own in zip(times["faiss flat"], found, strict=True))
            peer = f"{rate / PEER[name]:.2f}" if name in PEER else ""
            cells = [name, f"{rate:,.0f}", f"{ratio:.2f}", peer, f"{hits / ids.numel():.3f}"]
            lines.append("| " + " | ".join([*cells, f"{of_grid / statistics.median(found):.1%}"]) + " |")
        print("\n".join(lines))
        if options.out:
            options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    launched = KEEP_FREED_MEMORY | FEWER_KERNELS  # as `rlm run` starts its processes
    if not launched.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **launched})
    main()
