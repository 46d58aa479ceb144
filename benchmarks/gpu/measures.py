"""Measurements of one GPU, each a table beside what the hardware allows; without a GPU, of the CPU at small sizes.

PYTHONPATH=. python -m benchmarks.gpu.measures encoding table.md
PYTHONPATH=. python -m benchmarks.gpu.measures search_of_states table.md '{"queries": "...", "datastore": "..."}'
PYTHONPATH=. python -m benchmarks.gpu.measures search_of_clusters table.md '{}' '{"keys": 100000, "width": 64}'
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.knn_lm import write
from rlm.data.tokens import Ragged, SpecialTokens
from rlm.models.retro import Neighbours, build_retro
from rlm.models.retro_config import NeighbourEncoderConfig, RetroConfig, ScratchDecoder
from rlm.retrieval.config import DualEncoderConfig, ExactIndex, ScratchEncoder
from rlm.retrieval.datastore import Datastore
from rlm.retrieval.datastore_search import ExactSearch
from rlm.retrieval.encoder import DualEncoder, embed_corpus
from rlm.retrieval.exact import QUERIES, Exact
from rlm.retrieval.segment import SCORES
from rlm.stages.knn_search import open_stores

CHECKED = 8
"""Queries whose neighbours are compared with a loop in float64."""
VOCABULARY = 30_522

Inputs = Mapping[str, Path]


def seconds(work: Callable[[], object], device: torch.device, rounds: int = 3) -> float:
    """The best of some rounds, after one that warms up."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def peak(device: torch.device, size: int = 8192) -> float:
    """Operations per second of a product of square matrices in bfloat16."""
    size = size if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, device, 10)


def encoding(device: torch.device, inputs: Inputs, passages: int = 20_000, layers: int = 12) -> list[str]:
    """Passages embedded per second at the size of BERT-base, and of MiniLM, with their share of the measured peak.

    Random weights and word pieces, of lengths as Wikipedia's blocks of 100 words have.
    """
    rng = np.random.default_rng(0)
    lengths = rng.normal(135, 30, passages).clip(20, 250).astype(int)
    bodies = Ragged(rng.integers(1_000, 30_000, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)]))
    titles = Ragged(rng.integers(1_000, 30_000, 3 * passages), np.arange(passages + 1) * 3)
    special = SpecialTokens(cls=101, sep=102, pad=0, mask=103)
    best, pieces = peak(device), int(lengths.sum()) + 6 * passages
    lines = [
        f"Encoding {passages:,} passages; a product of matrices in bfloat16: {best / 1e12:,.1f} TFLOP/s.",
        "",
        "| encoder | passages/s | word pieces/s | matrix products, TFLOP/s | of the peak |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, depth, width, heads in (("BERT-base", layers, 768, 12), ("MiniLM", min(layers, 6), 384, 12)):
        encoder = ScratchEncoder(layers=depth, hidden_size=width, heads=heads)
        model = DualEncoder(DualEncoderConfig(encoder=encoder, pooling="mean"), VOCABULARY).to(device).eval()
        out = torch.empty(passages, model.dim, device=device)
        took = seconds(lambda model=model, out=out: embed_corpus(model, bodies, titles, special, out), device)
        weights = sum(weight.numel() for path, weight in model.named_parameters() if ".layer." in path)
        rate = 2 * weights * pieces / took
        cells = [f"{name} ({depth} x {width})", f"{passages / took:,.0f}", f"{pieces / took:,.0f}"]
        lines.append(f"| {' | '.join(cells)} | {rate / 1e12:,.1f} | {rate / best:.1%} |")
    return lines


def dense_search(device: torch.device, inputs: Inputs, passages: int = 13_000_000, queries: int = 512) -> list[str]:
    """Exact search of as many passages as Wikipedia has, beside reading them once and beside the products alone."""
    embeddings = torch.randn(passages, 128, device=device).bfloat16()
    index, best = Exact(ExactIndex(), embeddings, device=device), peak(device)
    some = embeddings[: 1 << 20]
    read = seconds(some.clone, device) * len(embeddings) / len(some) / 2  # copying reads and writes
    lines = [
        f"Exact search, top 8 of {passages:,} x 128 in bfloat16; least: read once, or the products at the peak.",
        "",
        "| queries | ms | least, ms | times the least |",
        "|--:|--:|--:|--:|",
    ]
    for together in (queries // 8, queries):
        asked = torch.randn(together, 128, device=device)
        took = seconds(lambda asked=asked: index.search(asked, 8), device)
        least = max(read, 2 * embeddings.numel() * together / best)
        lines.append(f"| {together} | {1e3 * took:.1f} | {1e3 * least:.1f} | {took / least:.1f} |")
    return lines


def search_of_clusters(device: torch.device, inputs: Inputs, keys: int = 10_000_000, width: int = 384) -> list[str]:
    """Exact search of a datastore of clustered keys that is made for it."""
    with tempfile.TemporaryDirectory() as folder:
        store, queries = write(Path(folder), keys, width, device)
        return searching(store, queries, device)


def search_of_states(device: torch.device, inputs: Inputs, k: int = 1024) -> list[str]:
    """Exact search of the states of real text, as a stage `knn_search` finds them in its inputs."""
    keys = Datastore.open(inputs["queries"] / "datastore", whole=False)
    some = np.linspace(0, len(keys) - 1, min(len(keys), QUERIES), dtype=np.int64)
    return searching(open_stores(dict(inputs)), torch.from_numpy(keys.take(some)), device, (8, k))


def searching(store: Datastore, queries: Tensor, device: torch.device, ks: Sequence[int] = (8, 1024)) -> list[str]:
    """Times as `rlm` searches, and of what bounds it: the products alone, those with torch's `topk`, and reading what
    is scanned once (at the rate at which the device copies); and how much farther the farthest found is than the k-th
    nearest, by a loop in float64."""
    ks = sorted({min(k, len(store)) for k in ks})
    search = ExactSearch(store, ExactIndex(), [str(device)])
    assert search._held is not None, "the keys do not fit on the GPU: search fewer"
    (segment,) = search._held
    scanned = segment._scanned
    size = scanned.numel() * scanned.element_size()
    some = scanned[: 1 << 20]
    read = seconds(some.clone, device) * len(scanned) / len(some) / 2
    lines = [
        f"Exact search of {len(store):,} keys x {store.dim}:",
        "",
        "| queries together | k | rlm, ms | products alone | products and topk of blocks | keys read once "
        "| rlm to products | rlm to reading | farther than in float64 |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for together in (QUERIES // 8, QUERIES):
        asked = queries[:together].float()
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
            cells = [f"{len(asked)}", f"{k:,}", *times, f"{took / alone:.1f}", f"{took / read:.1f}", f"{wrong:.1e}"]
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", f"{size / 1e9:.1f} GB are scanned, at {size / read / 1e9:,.0f} GB/s."]


def farther(keys: Tensor, queries: Tensor, ids: Tensor) -> float:
    """How much farther the farthest of the keys that were found is than the k-th nearest, by a loop in float64: at most
    over some queries, as a share of the distance."""
    excess = []
    for query, found in zip(queries[:CHECKED].to(keys.device).double(), ids.to(keys.device), strict=False):
        distances = torch.cat([(some.double() - query).square().sum(1) for some in keys.split(1 << 20)])
        excess.append(float(distances[found].max() / distances.kthvalue(len(found)).values - 1))
    return max(excess)


def retro_training(
    device: torch.device, inputs: Inputs, batch: int = 32, layers: int = 12, width: int = 512, tokens: int = 1024
) -> list[str]:
    """Tokens/s of RETRO's training at mini scale and of its language model's, forward and backward in bfloat16."""
    decoder = ScratchDecoder(layers=layers, hidden_size=width, heads=8)
    retro = RetroConfig(decoder=decoder, encoder=NeighbourEncoderConfig(layers=2, hidden_size=width, heads=8))
    best = peak(device)
    lines = [
        f"Training, {batch} windows of {tokens} tokens; a product of matrices: {best / 1e12:,.1f} TFLOP/s.",
        "",
        "| model | tokens/s | matrix products, TFLOP/s | of the peak |",
        "|---|--:|--:|--:|",
    ]
    for name, config, k in (("RETRO", retro, 2), ("language model", replace(retro, cca_layers=()), 0)):
        model = build_retro(config, 16_384).to(device)
        ids = torch.randint(16_384, (batch, tokens), device=device)
        found = torch.randint(16_384, (batch, tokens // config.chunk_tokens, k, 2 * config.chunk_tokens), device=device)
        neighbours = Neighbours(found, torch.ones_like(found, dtype=torch.bool)) if k else None

        def step(model=model, ids=ids, neighbours=neighbours) -> None:  # type: ignore[no-untyped-def]
            with torch.autocast(device.type, torch.bfloat16):
                logits = model(ids, neighbours)
            F.cross_entropy(logits.float().flatten(0, 1), ids.flatten()).backward()

        took = seconds(step, device)
        reader = model.encoder
        encoder = 0 if reader is None else sum(p.numel() for p in reader.layers.parameters())
        looked_up = 0 if reader is None or reader.embedding is None else reader.embedding.weight.numel()
        others = sum(p.numel() for p in model.parameters()) - encoder - looked_up
        rate = 6 * batch * tokens * (others + 2 * k * encoder) / took
        lines.append(f"| {name} | {batch * tokens / took:,.0f} | {rate / 1e12:,.1f} | {rate / best:.1%} |")
    return lines


MEASURES: dict[str, Callable[..., list[str]]] = {
    each.__name__: each for each in (encoding, dense_search, search_of_clusters, search_of_states, retro_training)
}


def main(name: str, out: str, inputs: str = "{}", options: str = "{}") -> None:
    """Measure, print and write the table.

    Args:
        name: of the measurement.
        out: file that is written.
        inputs: folders of stages by role, as JSON.
        options: of the measurement, as JSON.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    named = torch.cuda.get_device_name() if device.type == "cuda" else "cpu (no GPU was found)"
    folders = {role: Path(folder) for role, folder in json.loads(inputs).items()}
    lines = MEASURES[name](device, folders, **json.loads(options))
    text = "\n".join([f"{date.today()}, {named}, torch {torch.__version__}.", "", *lines]) + "\n"
    print(text)
    Path(out).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
