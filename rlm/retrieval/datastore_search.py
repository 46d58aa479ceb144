"""The nearest keys of a datastore by squared L2 distance, with keys streamed from the disk in segments."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlm.retrieval.config import ExactIndex, FaissFlat, FaissIvfPq
from rlm.retrieval.datastore import Datastore
from rlm.retrieval.exact import scanned_type
from rlm.retrieval.faiss_indexes import (
    CODES,
    FILE,
    SAMPLED_POINTS,
    fewer_lists,
    import_faiss,
    read_index,
    to_array,
)
from rlm.retrieval.segment import RANKED, Segment, ascending, squared_distances

SEGMENT = {"cpu": 1 << 28, "cuda": 1 << 34}
"""Bytes of keys, and of what is scanned of them, in a segment."""
HELD = 1 << 31
"""Bytes of keys, and of what is scanned of them, that stay in memory from search to search; beyond, all are read again
each time."""
FREE = 0.6
"""Share of a GPU's free memory that may be held."""
SAMPLE = 1 << 12
"""Keys whose mean is the centre."""
NEAR = 2.0**-8
"""Squared distances below this share of a query's squared length are computed from differences by faiss flat."""
QUERIES = 64
"""Whose distances are computed again together, from keys on the disk."""


class DatastoreIndex(Protocol):
    """Finds keys of a datastore."""

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest keys of each query, nearest first.

        Args:
            queries: float32 [queries, dim].
            k: keys wanted.

        Returns:
            squared distances float32 and ids int64, each [queries, k], on the CPU.

        Raises:
            ValueError: another width, or a k above the number of keys.
        """


def check_search(store: Datastore, queries: Tensor, k: int) -> None:
    """Raise ValueError unless the datastore can be asked so."""
    if queries.ndim != 2 or queries.shape[1] != store.dim:
        raise ValueError(
            f"queries are {tuple(queries.shape)}, the datastore's keys have a width of {store.dim}; make both with one "
            "model and key function"
        )
    if not 1 <= k <= len(store):
        raise ValueError(f"k = {k} of a datastore of {len(store)} keys; ask for 1 to {len(store)}")
    if not bool(torch.isfinite(queries).all()):
        raise ValueError("queries hold NaN or infinity: did the model's training diverge?")


class ExactSearch:
    """Every key is compared.

    Args:
        store: searched.
        config: `dtype` of the scan.
        devices: that search; each takes every so manieth segment.
        segment: keys in a segment; None takes all that are held, or as many as `SEGMENT` bytes hold.
    """

    def __init__(
        self, store: Datastore, config: ExactIndex, devices: Sequence[str] = ("cpu",), segment: int | None = None
    ) -> None:
        self.store, self.config, self.devices = store, config, [torch.device(name) for name in devices]
        # one for all segments: they are scanned alike
        step = -(-len(store) // SAMPLE)
        # copies: views would keep all pages resident
        sample = np.concatenate([keys[-first % step :: step].copy() for first, keys in store.slices()])
        self._centre = torch.from_numpy(sample).float().mean(0)
        kind, scanned = self.devices[0].type, scanned_type(config, self.devices[0]).itemsize
        row = (store.shards[0].keys.itemsize + scanned) * store.dim
        held = HELD if kind == "cpu" else int(FREE * torch.cuda.mem_get_info(self.devices[0])[0])
        hold = row * len(store) <= held * len(devices)
        # the fewer segments, the fewer keys are looked at that are not among the nearest of all
        self._rows = segment or (-(-len(store) // len(devices)) if hold else max(1, SEGMENT[kind] // row))
        self._held: list[Segment] | None = list(self._read()) if hold else None

    def _read(self) -> Iterator[Segment]:
        for number, first in enumerate(range(0, len(self.store), self._rows)):
            keys = np.concatenate([rows for _, rows in self.store.slices(start=first, stop=first + self._rows)])
            yield Segment(first, keys, self._centre, self.config, self.devices[number % len(self.devices)])

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        check_search(self.store, queries, k)
        queries = queries.float()
        best: tuple[Tensor, Tensor] | None = None
        with ThreadPoolExecutor(len(self.devices)) as pool:
            segments = iter(self._held if self._held is not None else self._read())
            while some := list(islice(segments, len(self.devices))):
                if best is None or best[0].shape[1] < k:
                    search = partial(Segment.nearest, queries=queries, k=k)
                else:  # what was found tells how near others have to be
                    search = partial(Segment.nearer, queries=queries, k=k, than=best[0][:, -1])
                # torch is slow to begin in a new thread
                for found in (map if len(some) == 1 else pool.map)(search, some):
                    best = found if best is None else _merged(best, found, k)
        assert best is not None
        return best


def _merged(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of both; where distances are equal, those of the first come before."""
    distances, ids = (torch.cat(pair, 1) for pair in zip(first, second, strict=True))
    distances, order = torch.sort(distances, dim=1, stable=True)
    return distances[:, :k], ids.gather(1, order[:, :k])


class FaissSearch:
    """Keys found by faiss: all compared in float32, or in inverted lists by quantised distances.

    Args:
        store: that the index was built from.
        config: `probes` and `rerank` of `ivf_pq`.
        index: of faiss.
    """

    def __init__(self, store: Datastore, config: FaissFlat | FaissIvfPq, index: Any) -> None:
        if (index.ntotal, index.d) != (len(store), store.dim):
            raise ValueError(
                f"an index of {index.ntotal} keys of width {index.d}, the datastore has {len(store)} of {store.dim}; "
                "build it again"
            )
        self.store, self.config, self.index = store, config, index
        self._held: Tensor | None = None
        if getattr(config, "rerank", 0) and store.shards[0].keys.itemsize * store.dim * len(store) <= HELD // 2:
            self._held = torch.from_numpy(np.concatenate([keys for _, keys in store.slices()]))

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        check_search(self.store, queries, k)
        array, rerank = to_array(queries), getattr(self.config, "rerank", 0)
        depth = min(k * max(1, rerank), len(self.store))
        distances, ids = self._found(array, depth)
        if not rerank:
            return torch.from_numpy(distances[:, :k]), torch.from_numpy(ids[:, :k])
        parts = []
        step = QUERIES if self._held is None else max(1, RANKED["cpu"] // (depth * self.store.dim))
        for some, candidates in zip(queries.float().split(step), torch.from_numpy(ids).split(step), strict=True):
            again, order = ascending(squared_distances(some, self._keys(candidates)), k)
            parts.append((again, candidates.gather(1, order)))
        return torch.cat([part for part, _ in parts]), torch.cat([part for _, part in parts])

    def _keys(self, ids: Tensor) -> Tensor:
        """float32 [queries, candidates, dim]."""
        if self._held is None:
            return torch.from_numpy(self.store.take(ids.numpy())).float()
        return self._held.index_select(0, ids.flatten()).float().view(*ids.shape, -1)

    def _found(self, queries: NDArray[np.float32], depth: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Those with too few keys in their lists are searched in all lists."""
        faiss = import_faiss()
        if isinstance(self.config, FaissFlat):
            faiss.cvar.distance_compute_blas_threshold = 1  # stock faiss takes a slow path for few queries
            distances, ids = self.index.search(queries, depth)
            # |q|^2 - 2 q k + |k|^2 in float32 cannot tell near keys apart that are far from the origin
            near = distances[:, 0] < NEAR * np.square(queries, dtype=np.float64).sum(1)
            if near.any():
                faiss.cvar.distance_compute_blas_threshold = 1 << 30  # differences, key by key
                distances[near], ids[near] = self.index.search(queries[near], depth)
            return distances, ids
        probes = min(self.config.probes, self.index.nlist)
        distances, ids = self.index.search(queries, depth, params=faiss.SearchParametersIVF(nprobe=probes))
        short = ids[:, -1] < 0
        if short.any():
            every = faiss.SearchParametersIVF(nprobe=self.index.nlist)
            distances[short], ids[short] = self.index.search(queries[short], depth, params=every)
        return distances, ids


def build_faiss(config: FaissFlat | FaissIvfPq, store: Datastore) -> Any:
    """Train on a sample of the keys, and add all, some at a time.

    Raises:
        ValueError: too few keys, or a width that is no multiple of the sub-quantizers.
    """
    faiss = import_faiss()
    if isinstance(config, FaissFlat):
        index = faiss.IndexFlatL2(store.dim)
    else:
        if len(store) < CODES:
            raise ValueError(f"`ivf_pq` needs at least {CODES} keys to learn from, not {len(store)}: use `kind: exact`")
        if store.dim % config.sub_quantizers:
            raise ValueError(
                f"index.sub_quantizers: {config.sub_quantizers} do not divide the keys' width of {store.dim}; write a "
                "divisor"
            )
        lists = fewer_lists(config, len(store))
        index = faiss.IndexIVFPQ(faiss.IndexFlatL2(store.dim), store.dim, lists, config.sub_quantizers, 8)
        index.pq.cp.min_points_per_centroid = 1  # else a warning for each sub-quantizer
        sample = np.random.default_rng(0).permutation(len(store))[: SAMPLED_POINTS * max(lists, CODES)]
        index.train(to_array(store.take(np.sort(sample))))
    for _, keys in store.slices():
        index.add(to_array(keys))
    return index


def save_faiss(index: Any, folder: Path) -> None:
    """Write the index to a folder."""
    import_faiss().write_index(index, str(folder / FILE))


def open_search(
    config: ExactIndex | FaissFlat | FaissIvfPq, store: Datastore, folder: Path | None, devices: Sequence[str]
) -> DatastoreIndex:
    """The search that the configuration names; `ivf_pq` reads its index from `folder`."""
    if isinstance(config, ExactIndex):
        return ExactSearch(store, config, devices)
    if folder is None:
        return FaissSearch(store, config, build_faiss(config, store))
    return FaissSearch(store, config, read_index(folder))
