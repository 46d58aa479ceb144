"""Stage: bits per byte of the chunks of a text that have little in common with their own neighbours."""

import json
from collections.abc import Iterator
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlm.data.chunks import Chunks
from rlm.data.documents import Documents
from rlm.data.text_windows import NeighbourTokens
from rlm.metrics.leakage import longest_common_run
from rlm.retrieval.neighbours import NeighbourTable
from rlm.stages.perplexity import NATS
from rlm.stages.stage import Context

COMPARED_AT_ONCE = 1 << 18
"""Tokens of neighbours: so few that what is compared stays in a core's cache."""


def run(config: Any, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `leakage.jsonl`: of each document its id and, for each threshold, nats and bytes of the chunks it keeps.

    A chunk is kept where r(C), the longest run of tokens that it has in common with one of its neighbours (each the
    chunk found and its continuation), is at most that share of the chunk (2112.04426, section 2.6). All neighbours that
    were computed count, however few the model reads; start tokens of documents neither match nor count.

    Returns:
        bits per byte and percent of bytes kept for each threshold (no bits per byte where it keeps no chunk), the mean
        of r(C) over chunks, percent, and chunks.
    """
    documents = Documents.open(inputs["text"])
    k, thresholds = config["neighbours"].k, np.array(config["leakage"].thresholds)
    table = NeighbourTable.open(inputs["neighbours"], k, **{role: inputs[role].name for role in ("text", "corpus")})
    m = int(table.described["keys"]["chunk_tokens"])
    chunks, corpus = Chunks(documents, m), Chunks(Documents.open(inputs["corpus"]), m)
    shares = np.concatenate([*_shares(chunks, NeighbourTokens(table, corpus), context)])
    of_tokens = np.load(inputs["perplexity"] / NATS, mmap_mode="r")
    of_chunks = np.add.reduceat(of_tokens, chunks.starts(np.arange(len(chunks))), dtype=float)
    # [documents, thresholds]
    nats, sizes = (
        np.add.reduceat(np.where(shares[:, None] <= thresholds, values[:, None], 0.0), chunks.first[:-1])
        for values in (of_chunks, chunks.bytes())
    )
    with open(folder / "leakage.jsonl", "w", encoding="utf-8") as file:
        for number in range(len(documents)):
            line = {"id": documents.id(number), "nats": nats[number].tolist(), "bytes": sizes[number].tolist()}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    total = documents.bytes.sum()
    metrics = {"chunks": float(len(chunks)), "mean_overlap": float(shares.mean())}
    for threshold, needed, kept in zip(config["leakage"].thresholds, nats.sum(0), sizes.sum(0), strict=True):
        metrics[f"bytes_kept@{threshold:g}"] = float(100 * kept / total)
        if kept:
            metrics[f"bits_per_byte@{threshold:g}"] = float(needed / log(2) / kept)
    return metrics


def _shares(chunks: Chunks, neighbours: NeighbourTokens, context: Context) -> Iterator[NDArray[np.float64]]:
    """100 r(C) of consecutive chunks."""
    at_once = max(1, COMPARED_AT_ONCE // (neighbours.table.ids.shape[1] * 2 * chunks.chunk_tokens))
    for first in range(0, len(chunks), at_once):
        numbers = np.arange(first, min(first + at_once, len(chunks)))
        tokens, mask = chunks.take(numbers)
        mask[:, 0] &= numbers != chunks.first[chunks.document_of(numbers)]
        found, found_mask = (of_one[0] for of_one in neighbours(numbers[None]))
        run = longest_common_run(tokens, mask, found, found_mask)
        yield 100 * run / np.maximum(mask.sum(1), 1)
        context.progress(int(numbers[-1]) + 1, len(chunks))
