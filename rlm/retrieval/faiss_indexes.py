"""Indexes of faiss: flat, inverted lists with product quantisation, and HNSW, all by inner product."""

import logging
from abc import abstractmethod
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlm.errors import ConfigError
from rlm.retrieval.config import FaissFlat, FaissHnsw, FaissIvfPq
from rlm.retrieval.index import Embeddings, Index, open_embeddings

ROWS = 1 << 17
"""Embeddings given to faiss at a time."""
TRAINING_POINTS = 39
"""Of each centroid: with fewer, faiss warns that its clusters are poor."""
SAMPLED_POINTS = 256
"""Of each centroid: faiss ignores more."""
CODES = 256
"""Centroids of a sub-quantizer, at 8 bits."""
FILE = "index.faiss"

log = logging.getLogger(__name__)


def import_faiss() -> Any:
    """The module faiss.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "indexes `faiss_flat`, `ivf_pq` and `hnsw` need faiss: `pip install faiss-cpu` (extra `faiss-cpu`), "
            f"or choose `kind: exact` ({error})"
        ) from error
    return faiss


def to_array(rows: Any) -> NDArray[np.float32]:
    """Embeddings of some passages as faiss reads them."""
    return np.ascontiguousarray(rows.float().cpu().numpy() if isinstance(rows, Tensor) else rows, dtype=np.float32)


class FaissIndex(Index):
    """An index that faiss searches, on the CPU. Equal scores come by lower id, but which of them make the last place
    of the top k is faiss's choice."""

    def __init__(self, config: Any, index: Any) -> None:
        self.config, self.index = config, index

    @property
    def size(self) -> int:
        return int(self.index.ntotal)

    @property
    def dim(self) -> int:
        return int(self.index.d)

    @classmethod
    @abstractmethod
    def build(cls, config: Any, embeddings: Embeddings) -> Self:
        """Index float32 embeddings, [passages, dim]."""

    @classmethod
    @abstractmethod
    def open(cls, config: Any, folder: Path, described: dict[str, Any]) -> Self:
        """Open what `save` wrote; `described` is its `index.json`."""

    def add(self, embeddings: Embeddings) -> None:
        """Add all embeddings, some rows at a time: they may be a memory map larger than memory."""
        for start in range(0, len(embeddings), ROWS):
            self.index.add(to_array(embeddings[start : start + ROWS]))

    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        scores, ids = self._candidates(to_array(queries), k)
        order = np.lexsort((ids, -scores), axis=1)
        scores, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
        return torch.from_numpy(scores), torch.from_numpy(ids)

    def _candidates(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """k distinct passages of each query and their scores, in any order."""
        return self.index.search(queries, k)

    def _save(self, folder: Path) -> None:
        import_faiss().write_index(self.index, str(folder / FILE))


def read_index(folder: Path) -> Any:
    """Read faiss's file.

    Raises:
        ValueError: it is damaged.
    """
    faiss = import_faiss()
    try:
        return faiss.read_index(str(folder / FILE))
    except RuntimeError as error:
        raise ValueError(f"{folder / FILE}: damaged ({error}); delete {folder} and build it again") from error


def save_embeddings(embeddings: Embeddings, folder: Path) -> None:
    """Write `embeddings.npy`, float32, unless it is there."""
    path = folder / "embeddings.npy"
    if not path.exists():
        np.save(path, to_array(embeddings))


class Flat(FaissIndex):
    """Every passage is compared, in float32."""

    def __init__(self, config: FaissFlat, embeddings: Embeddings) -> None:
        super().__init__(config, import_faiss().IndexFlatIP(embeddings.shape[1]))
        self.embeddings = embeddings
        self.add(embeddings)

    @classmethod
    def build(cls, config: FaissFlat, embeddings: Embeddings) -> Self:
        return cls(config, embeddings)

    @classmethod
    def open(cls, config: FaissFlat, folder: Path, described: dict[str, Any]) -> Self:
        return cls(config, open_embeddings(folder, described))

    def _save(self, folder: Path) -> None:
        save_embeddings(self.embeddings, folder)


class IvfPq(FaissIndex):
    """Passages in lists by their nearest centroid, `probes` of which are searched by quantised embeddings (Jégou et
    al. 2011); the best `rerank` times k are scored again from the full embeddings, which stay on the disk.

    Queries whose lists hold too few passages are searched in all lists.
    """

    config: FaissIvfPq

    def __init__(self, config: FaissIvfPq, index: Any, embeddings: Embeddings | None) -> None:
        super().__init__(config, index)
        self.embeddings = embeddings

    @classmethod
    def build(cls, config: FaissIvfPq, embeddings: Embeddings) -> Self:
        """Train the centroids on a sample and add all embeddings.

        Raises:
            ValueError: fewer than 256 passages, or a width that is no multiple of the sub-quantizers.
        """
        faiss, (count, dim) = import_faiss(), embeddings.shape
        if count < CODES:
            raise ValueError(f"`ivf_pq` needs at least {CODES} passages to learn from, not {count}: use `kind: exact`")
        if dim % config.sub_quantizers:
            fitting = max(m for m in range(1, min(dim, config.sub_quantizers) + 1) if dim % m == 0)
            raise ValueError(
                f"index.sub_quantizers: {config.sub_quantizers} does not divide the embeddings' width of {dim}; "
                f"write {fitting}"
            )
        lists = fewer_lists(config, count)
        coarse = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFPQ(coarse, dim, lists, config.sub_quantizers, 8, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.min_points_per_centroid = 1  # else a warning for each sub-quantizer
        sample = np.random.default_rng(0).permutation(count)[: SAMPLED_POINTS * max(lists, CODES)]
        index.train(to_array(embeddings[np.sort(sample)]))
        built = cls(config, index, embeddings if config.rerank else None)
        built.add(embeddings)
        return built

    @classmethod
    def open(cls, config: FaissIvfPq, folder: Path, described: dict[str, Any]) -> Self:
        return cls(config, read_index(folder), open_embeddings(folder, described) if config.rerank else None)

    def _candidates(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        depth = min(k * max(1, self.config.rerank), self.size)
        scores, ids = self._probe(queries, depth, min(self.config.probes, self.index.nlist))
        short = ids[:, k - 1] < 0
        if short.any():
            scores[short], ids[short] = self._probe(queries[short], depth, self.index.nlist)
        if self.embeddings is None:
            return scores, ids
        scores = np.einsum("qcd,qd->qc", to_array(self.embeddings[ids]), queries)
        scores[ids < 0] = -np.inf
        best = np.lexsort((ids, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, best, 1), np.take_along_axis(ids, best, 1)

    def _probe(self, queries: NDArray, depth: int, probes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        parameters = import_faiss().SearchParametersIVF(nprobe=probes)
        return self.index.search(queries, depth, params=parameters)

    def _save(self, folder: Path) -> None:
        super()._save(folder)
        if self.embeddings is not None:
            save_embeddings(self.embeddings, folder)


class Hnsw(FaissIndex):
    """A navigable graph over the full embeddings (Malkov and Yashunin 2018). Built on several threads, the graph is
    not the same twice. Queries for which the walk finds fewer than k passages are compared with all."""

    config: FaissHnsw

    @classmethod
    def build(cls, config: FaissHnsw, embeddings: Embeddings) -> Self:
        faiss = import_faiss()
        index = faiss.IndexHNSWFlat(embeddings.shape[1], config.neighbours, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = config.ef_construction
        built = cls(config, index)
        built.add(embeddings)
        return built

    @classmethod
    def open(cls, config: FaissHnsw, folder: Path, described: dict[str, Any]) -> Self:
        return cls(config, read_index(folder))

    def _candidates(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        faiss = import_faiss()
        parameters = faiss.SearchParametersHNSW(efSearch=max(self.config.ef_search, k))
        scores, ids = self.index.search(queries, k, params=parameters)
        short = (ids < 0).any(1)
        if short.any():
            scores[short], ids[short] = faiss.downcast_index(self.index.storage).search(queries[short], k)
        return scores, ids


def fewer_lists(config: FaissIvfPq, vectors: int) -> int:
    """Those of the configuration, or as many as so many vectors can train."""
    lists = min(config.lists, max(1, vectors // TRAINING_POINTS))
    if lists < config.lists:
        log.warning("ivf_pq: %d lists rather than %d, for %d vectors are few", lists, config.lists, vectors)
    return lists


FAISS_KINDS: dict[str, type[FaissIndex]] = {"faiss_flat": Flat, "ivf_pq": IvfPq, "hnsw": Hnsw}
