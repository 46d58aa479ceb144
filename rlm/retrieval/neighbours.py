"""The nearest chunks of every chunk of a text: computed once, shard by shard, and read from disk ever after."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlm.data.tokens import Ragged
from rlm.retrieval.encoder import Progress
from rlm.retrieval.index import Index, Search, search_allowed
from rlm.retrieval.sparse import Bm25Index

SHARD = 1 << 13
"""Chunks searched, and written, together: what a killed run loses at most."""
ARRAYS: dict[str, Any] = {"ids": np.int64, "scores": np.float32}
_MARK, _SIDECAR = "progress.json", "neighbours.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """Which document each chunk is of, and by what documents are told apart."""

    first: NDArray[np.int64]
    """Chunk of each document, [documents + 1]."""
    identity: NDArray[np.uint64]
    """[documents, kinds]; documents are the same where any kind agrees."""

    def __len__(self) -> int:
        return int(self.first[-1])

    def of(self, chunks: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Identities of the documents of chunks, [..., kinds]."""
        return self.identity[np.searchsorted(self.first, chunks, "right") - 1]


def dense_search(index: Index, queries: Tensor) -> Search:
    """Search by the embeddings of some chunks, float32 [chunks, dim]."""
    return lambda rows, depth: index.search(queries[torch.from_numpy(rows).to(queries.device)], depth)


def sparse_search(index: Bm25Index, queries: Ragged) -> Search:
    """Search by the word pieces of some chunks."""

    def search(rows: NDArray[np.int64], depth: int) -> tuple[Tensor, Tensor]:
        scores, ids = index.search(queries.take(rows), depth)
        return torch.from_numpy(scores), torch.from_numpy(ids)

    return search


def others(text: Origin, corpus: Origin) -> NDArray[np.int64]:
    """Chunks of the corpus that are not of the same document, for each document of the text."""
    sizes = np.diff(corpus.first)
    kinds = corpus.identity.shape[1]
    same = np.zeros(len(text.identity), np.int64)
    # Inclusion and exclusion over the ways in which identities may agree.
    for chosen in range(1, 1 << kinds):
        columns = [kind for kind in range(kinds) if chosen >> kind & 1]
        both = np.concatenate([corpus.identity[:, columns], text.identity[:, columns]])
        _, group = np.unique(both, axis=0, return_inverse=True)
        group = group.reshape(-1)
        held = np.bincount(group[: len(sizes)], weights=sizes, minlength=group.max() + 1).astype(np.int64)
        same += (-1) ** (len(columns) + 1) * held[group[len(sizes) :]]
    return len(corpus) - same


def write_neighbours(
    folder: Path,
    text: Origin,
    corpus: Origin,
    k: int,
    queries: Callable[[int, int], Search],
    keys: Mapping[str, str],
    progress: Progress | None = None,
    shard: int = SHARD,
    name: Callable[[int], str] = str,
) -> None:
    """Write what `NeighbourTable.open` reads; a call that was interrupted goes on after its last whole shard.

    No chunk is a neighbour of one of the same document; more are searched for, so that k stays full.

    Args:
        folder: gets `ids.npy` and `scores.npy`, [chunks, k], and at last `neighbours.json`.
        text: of the chunks whose neighbours are wanted.
        corpus: of the chunks that are searched.
        k: neighbours of each.
        queries: `queries(first, last)` gives the search for chunks `first` to before `last` of the text,
            whose numbers start at 0 there.
        keys: what the result is made of, by role (text, corpus, encoder, index); kept beside it.
        progress: called with chunks done and chunks in all.
        shard: chunks searched together.
        name: of a document of the text, for messages.

    Raises:
        ValueError: some document has fewer than k chunks of others to choose from; nothing was computed.
    """
    if k < 1:
        raise ValueError(f"k = {k} neighbours; compute at least 1")
    left = others(text, corpus)
    short = np.flatnonzero(left < k)
    if len(short):
        first_short = name(int(short[0]))
        raise ValueError(
            f"k = {k} neighbours, but for {len(short)} of the text's {len(left)} documents (first: {first_short}) "
            f"the retrieval corpus has only {left[short].min()} chunks of other documents: it is the same document, or "
            "too small; add documents to it, or ask for fewer neighbours"
        )
    described = {"chunks": len(text), "k": k, "keys": dict(keys)}
    arrays, done = _open_work(folder, described, shard)
    own = np.diff(corpus.first)
    depth = k + min(int(own.max()), 2 * k + 16)  # the chunks of the same document are among the nearest
    for first in range(done, len(text), shard):
        last = min(first + shard, len(text))
        excluded = text.of(np.arange(first, last))

        def allowed(
            rows: NDArray[np.int64], found: NDArray[np.int64], excluded: NDArray[np.uint64] = excluded
        ) -> NDArray[np.bool_]:
            return np.asarray((corpus.of(found) != excluded[rows, None]).all(-1))

        scores, ids = search_allowed(queries(first, last), last - first, len(corpus), k, allowed, depth=depth)
        arrays["ids"][first:last], arrays["scores"][first:last] = ids.numpy(), scores.numpy()
        for array in arrays.values():
            array.flush()
        replace_json(folder / _MARK, {**described, "shard": shard, "done": last})
        if progress is not None:
            progress(last, len(text))
    replace_json(folder / _SIDECAR, described)
    (folder / _MARK).unlink(missing_ok=True)


def _open_work(folder: Path, described: dict[str, Any], shard: int) -> tuple[dict[str, np.memmap], int]:
    """The arrays to write, and how many chunks of them an interrupted call had written."""
    shape = (described["chunks"], described["k"])
    try:
        mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        done = mark.pop("done")
        if mark == {**described, "shard": shard}:
            arrays = {name: np.lib.format.open_memmap(folder / f"{name}.npy", "r+") for name in ARRAYS}
            if all(array.shape == shape for array in arrays.values()):
                return arrays, int(done)
    except (OSError, ValueError, KeyError):
        pass  # nothing was written, or not by a call with these arguments
    (folder / _MARK).unlink(missing_ok=True)
    return {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape) for name, dtype in ARRAYS.items()
    }, 0


def replace_json(path: Path, described: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(described), encoding="utf-8")
    os.replace(part, path)


class NeighbourTable:
    """Neighbours of every chunk of a text, best first; memory-mapped."""

    ids: NDArray[np.int64]
    """Chunks of the corpus, [chunks, k]."""
    scores: NDArray[np.float32]
    """[chunks, k]."""

    def __init__(self, folder: Path, k: int) -> None:
        self.folder, self.k = folder, k
        try:
            self.described = json.loads((folder / _SIDECAR).read_text(encoding="utf-8"))
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
            shape = (self.described["chunks"], self.described["k"])
            wrong = [
                name for name, dtype in ARRAYS.items() if (arrays[name].shape, arrays[name].dtype) != (shape, dtype)
            ]
            if wrong:
                raise ValueError(f"{wrong[0]}.npy is {arrays[wrong[0]].shape}, {shape} was written")
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ValueError(f"{folder}: no neighbours, or damaged ones ({error}); delete the folder") from error
        if not 1 <= k <= shape[1]:
            raise ValueError(
                f"k = {k} neighbours of {folder}, which holds {shape[1]}; set `neighbours.k` to {k} or more"
            )
        self.ids, self.scores = arrays["ids"][:, :k], arrays["scores"][:, :k]

    @classmethod
    def open(cls, folder: Path, k: int, **keys: str) -> Self:
        """Map what `write_neighbours` wrote.

        Args:
            folder: it wrote to.
            k: neighbours read, at most as many as were computed.
            keys: what the neighbours have to be of, by role.

        Raises:
            ValueError: a damaged file, a k above what was computed, or neighbours of something else (what differs).
        """
        table = cls(folder, k)
        found = table.described["keys"]
        other = [role for role, key in keys.items() if found.get(role) != key]
        if other:
            listed = "; ".join(f"{role}: computed with {found.get(role)}, opened with {keys[role]}" for role in other)
            raise ValueError(f"{folder}: neighbours of another {', '.join(other)} ({listed}); compute them again")
        return table

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "k": self.k}  # data workers map the files anew

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"], state["k"])  # type: ignore[misc]
