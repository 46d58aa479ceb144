"""Datastores of kNN-LM and kNN-MT: what a model knows at each token of a text (key), and the token that follows.

Keys and values lie in shards of raw files that are memory-mapped: a hundred million keys need no memory but for what is
read. A datastore is appended to by joining it with another; the ids of the first stay as they are.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from mmap import MADV_DONTNEED
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rlm.data.tokens import token_dtype
from rlm.retrieval.datastore_writer import SIDECAR, checksum_of, shard_paths

ROWS = 1 << 16
"""Keys read at a time."""
RESIDENT = 1 << 30
"""Bytes of a map that may stay resident; of a larger one, what was read is let go of."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A memory-mapped part of a datastore."""

    keys: NDArray
    """[rows, dim]."""
    values: NDArray
    """[rows]."""


class Datastore:
    """Finished datastores, one after the other, memory-mapped.

    Args:
        shards: in their order.
        made_of: what each datastore is of, by role.
        vocab_size: of the model.
    """

    def __init__(self, shards: Sequence[Shard], made_of: Sequence[Mapping[str, str]], vocab_size: int) -> None:
        self.shards, self.made_of, self.vocab_size = list(shards), list(made_of), vocab_size
        self.dim = int(self.shards[0].keys.shape[1])
        self.first = np.cumsum([0, *(len(shard.values) for shard in self.shards)])
        """Number of the first key of each shard, and the number of keys."""

    @classmethod
    def open(cls, folder: Path, whole: bool = True, dim: int | None = None, **made_of: str) -> Self:
        """Map what `DatastoreWriter` wrote.

        Args:
            folder: it wrote to.
            whole: compare checksums, which reads everything; sizes are always compared.
            dim: the width that keys must have.
            made_of: what the datastore has to be of, by role.

        Raises:
            ValueError: a truncated or damaged file (which), or a datastore of something else (what differs).
        """
        try:
            described = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
            width, vocab_size, count, size = (described[name] for name in ("dim", "vocab_size", "count", "shard"))
            dtypes = {"keys": np.dtype(described["dtype"]), "values": token_dtype(vocab_size)}
            found, checksums = described["made_of"], described["checksums"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder}: no datastore, or an unfinished one ({error}); delete the folder") from error
        wanted = {**made_of, **({} if dim is None else {"width": str(dim)})}
        found_all = {**found, "width": str(width)}
        other = [role for role, name in wanted.items() if found_all.get(role) != name]
        if other:
            listed = "; ".join(
                f"{role}: written with {found_all.get(role)}, read with {wanted[role]}" for role in other
            )
            raise ValueError(f"{folder}: a datastore of another {', '.join(other)} ({listed}); write it again")
        shards = []
        for number, expected in enumerate(checksums):
            rows = min(size, count - number * size)
            shapes = {"keys": (rows, width), "values": (rows,)}
            paths = shard_paths(folder, number)
            for name, path in paths.items():
                bytes_written = int(np.prod(shapes[name])) * dtypes[name].itemsize
                on_disk = path.stat().st_size if path.exists() else None
                if on_disk != bytes_written:
                    what = "missing" if on_disk is None else f"{on_disk} bytes, {bytes_written} were written"
                    raise ValueError(f"{path}: damaged ({what}); delete {folder} and write it again")
                if whole and checksum_of(path)[1] != expected[name]:
                    raise ValueError(f"{path}: damaged (another checksum); delete {folder} and write it again")
            shards.append(
                Shard(*(np.memmap(path, dtypes[name], "c", shape=shapes[name]) for name, path in paths.items()))
            )
        return cls(shards, [found], vocab_size)

    @classmethod
    def joined(cls, parts: Sequence[Self], same: Sequence[str] = ("model", "key")) -> Self:
        """Several datastores as one, in their order: a corpus is added without touching what is there.

        Raises:
            ValueError: keys of another width, vocabulary, or of other roles named in `same`.
        """
        first = parts[0]
        for part in parts[1:]:
            facts = [
                {"width": each.dim, "vocabulary": each.vocab_size, **{role: each.made_of[0].get(role) for role in same}}
                for each in (first, part)
            ]
            for what, expected in facts[0].items():
                if facts[1][what] != expected:
                    raise ValueError(
                        f"datastores of different {what}: {expected} and {facts[1][what]}; their keys cannot be "
                        "compared, write both with one model"
                    )
        shards = [shard for part in parts for shard in part.shards]
        return cls(shards, [facts for part in parts for facts in part.made_of], first.vocab_size)

    def __len__(self) -> int:
        return int(self.first[-1])

    def slices(self, rows: int = ROWS, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, NDArray]]:
        """Keys in their order: the number of the first and [at most rows, dim], each time."""
        stop = len(self) if stop is None else stop
        for shard, first in zip(self.shards, self.first, strict=False):
            for low in range(max(0, start - int(first)), min(len(shard.values), stop - int(first)), rows):
                high = min(low + rows, len(shard.values), stop - int(first))
                yield int(first) + low, shard.keys[low:high]
            _let_go(shard.keys)

    def take(self, ids: NDArray[np.int64]) -> NDArray:
        """Keys by number, [...] to [..., dim]."""
        return self._take("keys", ids)

    def take_values(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Values by number, of the same shape."""
        return self._take("values", ids).astype(np.int64)

    def _take(self, name: str, ids: NDArray[np.int64]) -> NDArray:
        flat = ids.ravel()
        arrays = [getattr(shard, name) for shard in self.shards]
        found = np.empty((len(flat), *arrays[0].shape[1:]), np.result_type(*{array.dtype for array in arrays}))
        # ascending, so that the disk is read in one direction
        order = np.argsort(flat, kind="stable")
        bounds = np.searchsorted(flat[order], self.first)
        large = sum(array.nbytes for array in arrays) > RESIDENT
        for array, first, low, high in zip(arrays, self.first, bounds, bounds[1:], strict=False):
            found[order[low:high]] = array[flat[order[low:high]] - first]
            if large:
                _let_go(array)
        return found.reshape(*ids.shape, *found.shape[1:])


def _let_go(array: Any) -> None:
    """Take the pages that were read out of resident memory; they are read again where they are needed."""
    array._mmap.madvise(MADV_DONTNEED)
