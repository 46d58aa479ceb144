"""The nearest keys of every key of a text: searched once, block by block, and read for every k ever after."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from rlm.data.tokens import token_dtype
from rlm.retrieval.datastore import Datastore
from rlm.retrieval.datastore_search import DatastoreIndex
from rlm.retrieval.encoder import Progress
from rlm.retrieval.neighbours import replace_json

BLOCK = 1 << 12
"""Queries searched, and written, together: what a killed run loses at most."""
_MARK, _SIDECAR = "progress.json", "knn.json"


def write_knn(
    folder: Path,
    queries: Datastore,
    store: Datastore,
    search: DatastoreIndex,
    k: int,
    made_of: Mapping[str, str],
    progress: Progress | None = None,
    block: int = BLOCK,
) -> None:
    """Write what `KnnTable.open` reads; a call that was interrupted goes on after its last whole block.

    Args:
        folder: gets `distances.npy`, `ids.npy` and `tokens.npy`, [queries, k], and at last `knn.json`.
        queries: the keys that predict a text.
        store: searched.
        search: of the store.
        k: neighbours of each.
        made_of: what the result is of, by role.
        progress: called with queries done and queries in all.
        block: queries searched together.
    """
    count = len(queries)
    dtypes = {
        "distances": np.dtype(np.float32),
        "ids": token_dtype(len(store)),
        "tokens": token_dtype(store.vocab_size),
    }
    described = {
        **{"queries": count, "k": k, "keys": len(store), "made_of": dict(made_of)},
        "dtypes": {name: str(dtype) for name, dtype in dtypes.items()},
    }
    arrays, done, seconds = _open_work(folder, described, block)
    for first in range(done, count, block):
        last = min(first + block, count)
        asked = torch.from_numpy(np.concatenate([rows for _, rows in queries.slices(start=first, stop=last)])).float()
        started = time.perf_counter()
        distances, ids = (found.numpy() for found in search.search(asked, k))
        seconds.append(time.perf_counter() - started)
        arrays["distances"][first:last], arrays["ids"][first:last] = distances, ids
        arrays["tokens"][first:last] = store.take_values(ids)
        for array in arrays.values():
            array.flush()
        replace_json(folder / _MARK, {**described, "block": block, "done": last, "seconds": seconds})
        if progress is not None:
            progress(last, count)
    replace_json(folder / _SIDECAR, {**described, "block": block, "done": count, "seconds": seconds})
    (folder / _MARK).unlink(missing_ok=True)


def _open_work(folder: Path, described: dict[str, Any], block: int) -> tuple[dict[str, np.memmap], int, list[float]]:
    """The arrays to write, how many queries of them an interrupted call had written, and the seconds of its blocks."""
    shape = (described["queries"], described["k"])
    try:
        # a finished one is told by the same facts
        told = next(path for name in (_MARK, _SIDECAR) if (path := folder / name).exists())
        mark = json.loads(told.read_text(encoding="utf-8"))
        done, seconds = int(mark.pop("done")), list(mark.pop("seconds"))
        if mark == {**described, "block": block}:
            arrays = {name: np.lib.format.open_memmap(folder / f"{name}.npy", "r+") for name in described["dtypes"]}
            if all(array.shape == shape for array in arrays.values()):
                return arrays, done, seconds
    except (OSError, ValueError, KeyError, StopIteration):
        pass  # nothing was written, or not by a call with these arguments
    (folder / _MARK).unlink(missing_ok=True)
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.dtype(dtype), shape)
        for name, dtype in described["dtypes"].items()
    }
    return arrays, 0, []


class KnnTable:
    """Neighbours of every key of a text, nearest first; memory-mapped."""

    distances: NDArray[np.float32]
    """Squared L2, [queries, k]."""
    ids: NDArray[np.integer]
    """Keys of the datastore, [queries, k]."""
    tokens: NDArray[np.integer]
    """Their values, [queries, k]."""

    def __init__(self, folder: Path) -> None:
        try:
            self.described = json.loads((folder / _SIDECAR).read_text(encoding="utf-8"))
            shape = (self.described["queries"], self.described["k"])
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in self.described["dtypes"]}
            for name, dtype in self.described["dtypes"].items():
                if (arrays[name].shape, str(arrays[name].dtype)) != (shape, dtype):
                    raise ValueError(f"{name}.npy is {arrays[name].shape}, {shape} was written")
            self.distances, self.ids, self.tokens = (arrays[name] for name in ("distances", "ids", "tokens"))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ValueError(f"{folder}: no neighbours, or damaged ones ({error}); delete the folder") from error

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map what `write_knn` wrote.

        Raises:
            ValueError: a damaged file.
        """
        return cls(folder)

    @property
    def blocks(self) -> list[tuple[int, float]]:
        """Queries that were searched together, and the seconds that it took."""
        size, count = self.described["block"], len(self)
        return [(min(size, count - n * size), took) for n, took in enumerate(self.described["seconds"])]

    @property
    def k(self) -> int:
        """Computed for each query."""
        return int(self.distances.shape[1])

    def __len__(self) -> int:
        return len(self.distances)
