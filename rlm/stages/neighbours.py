"""Stage: the nearest chunks of a retrieval corpus for every chunk of a text."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from rlm.data.chunk_pieces import own_tokens
from rlm.data.chunks import Chunks
from rlm.data.documents import Documents
from rlm.data.text_windows import NeighbourTokens, Part, TextWindows
from rlm.retrieval.config import NeighboursConfig
from rlm.retrieval.index import Search, open_index
from rlm.retrieval.neighbours import NeighbourTable, Origin, dense_search, write_neighbours
from rlm.stages.chunk_index import describe, open_search
from rlm.stages.stage import Context
from rlm.stages.training import accelerator


def run(config: NeighboursConfig, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes what `NeighbourTable.open` reads; an interrupted run goes on.

    Raises:
        ValueError: text and corpus have different tokenizers, or see `write_neighbours`.
    """
    described = describe(inputs["index"], inputs["corpus"])
    keys = {"text": inputs["text"].name, "chunk_tokens": str(described["chunk_tokens"]), **described["keys"]}
    text, corpus = (Chunks(Documents.open(inputs[role]), described["chunk_tokens"]) for role in ("text", "corpus"))
    if text.documents.tokenizer.get_vocab() != corpus.documents.tokenizer.get_vocab():
        raise ValueError(
            f"{inputs['text'].name} and {inputs['corpus'].name} have different tokenizers: neighbours of one could not "
            "be read beside the other; make one of them with the tokenizer of the other"
        )
    asked, searched = (Origin(chunks.first, chunks.documents.identity) for chunks in (text, corpus))
    queries, name = _queries(inputs, text, context), text.documents.id
    write_neighbours(folder, asked, searched, config.k, queries, keys, context.progress, name=name)
    table = NeighbourTable.open(folder, config.k)
    return {"chunks": len(table), "mean_best_score": float(table.scores[:, 0].mean(dtype=float))}


def _queries(inputs: dict[str, Path], text: Chunks, context: Context) -> Callable[[int, int], Search]:
    """The search for consecutive chunks of the text."""
    folder, device = inputs["index"] / "index", accelerator(context.runtime)
    if inputs["text"] == inputs["corpus"] and (folder / "embeddings.npy").exists():
        index = open_index(folder, device)

        def stored(first: int, last: int) -> Search:
            # mapped anew each time, so that what was read does not stay in memory
            embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")[first:last]
            return dense_search(index, torch.from_numpy(np.array(embeddings)))

        return stored
    search = open_search(inputs["index"], text, device)
    return lambda first, last: search(own_tokens(text, first, last))


def open_windows(
    inputs: dict[str, Path],
    tokens: int,
    chunk_tokens: int,
    stride: int | None = None,
    k: int = 0,
    part: Part | Literal["none"] = "both",
) -> TextWindows:
    """Windows of a text for training or evaluation, with the neighbours of their chunks.

    Args:
        inputs: folders of the stages `text`, and of `corpus` and `neighbours` where neighbours are read.
        tokens: of a window.
        chunk_tokens: of a chunk.
        stride: tokens from window to window; None takes as many whole chunks as a window has.
        k: neighbours read; 0 reads none.
        part: of the neighbours; `none` reads none.

    Raises:
        ValueError: lengths that do not fit, or neighbours of something else (what differs).
    """
    chunks = Chunks(Documents.open(inputs["text"]), chunk_tokens)
    if k == 0 or part == "none":
        return TextWindows(chunks, tokens, stride)
    made_of = {role: inputs[role].name for role in ("text", "corpus")}
    table = NeighbourTable.open(inputs["neighbours"], k, **made_of, chunk_tokens=str(chunk_tokens))
    corpus = Chunks(Documents.open(inputs["corpus"]), chunk_tokens)
    return TextWindows(chunks, tokens, stride, NeighbourTokens(table, corpus, part))
