"""Indexes: maximum inner product search over passage embeddings. An index returns ids, never passages."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlm.config import to_plain
from rlm.retrieval.config import ExactIndex, FaissFlat, FaissHnsw, FaissIvfPq, IndexConfig, ShardedExact

Embeddings = NDArray[np.floating] | Tensor
Search = Callable[[NDArray[np.int64], int], tuple[Tensor, Tensor]]
KINDS: dict[str, type[IndexConfig]] = {
    "exact": ExactIndex,
    "faiss_flat": FaissFlat,
    "ivf_pq": FaissIvfPq,
    "hnsw": FaissHnsw,
    "sharded_exact": ShardedExact,
}


class Index(ABC):
    """Passages by inner product with a query, best first, ties by lower id."""

    config: IndexConfig

    @property
    @abstractmethod
    def size(self) -> int:
        """Passages."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width of the embeddings."""

    def __len__(self) -> int:
        return self.size

    def any_left(self, count: int) -> bool:
        """Whether a process that searches this index has queries left; `count` are those of this one."""
        return count > 0

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k best passages of each query.

        Args:
            queries: float32 [batch, dim].
            k: passages wanted.

        Returns:
            scores float32 [batch, k] and ids int64 [batch, k], on the index's device.

        Raises:
            ValueError: another width, or a k that the index cannot fill.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(
                f"queries are {tuple(queries.shape)}, the index holds embeddings of width {self.dim}; "
                "embed them with the retriever that the index was built from"
            )
        if not 1 <= k <= self.size:
            raise ValueError(f"k = {k} of an index of {self.size} passages; ask for 1 to {self.size}")
        with torch.autocast(queries.device.type, enabled=False):  # scores stay float32 inside a training step
            return self._search(queries.detach().float(), k)

    @abstractmethod
    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]: ...

    def save(self, folder: Path) -> None:
        """Write the index to a folder; `index.json`, with the sizes of its files, comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        self._save(folder)
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != "index.json"}
        described = {"config": to_plain(self.config), "passages": self.size, "dim": self.dim, "files": files}
        (folder / "index.json").write_text(json.dumps(described, indent=1), encoding="utf-8")

    @abstractmethod
    def _save(self, folder: Path) -> None: ...


def check_embeddings(embeddings: Embeddings) -> None:
    """Raise ValueError unless [passages, dim] with at least one passage."""
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(f"embeddings are {tuple(embeddings.shape)}: an index needs [passages, dim], neither zero")


def build_index(
    config: IndexConfig, embeddings: Embeddings, device: torch.device | str = "cpu", whole: bool = False
) -> Index:
    """An index of the kind that the configuration names.

    Args:
        config: kind and its settings.
        embeddings: [passages, dim], float32; not copied where the kind re-ranks from them.
        device: where exact search runs.
        whole: a sharded index too is built by this process alone, without the other ranks, to be written.

    Raises:
        ValueError: no passages, or too few for the kind.
    """
    check_embeddings(embeddings)
    if isinstance(config, ExactIndex) or (whole and isinstance(config, ShardedExact)):
        from rlm.retrieval.exact import Exact

        return Exact(config, embeddings, device)
    if isinstance(config, ShardedExact):
        from rlm.retrieval.sharded import Sharded

        return Sharded.of_all(config, embeddings, device)
    from rlm.retrieval.faiss_indexes import FAISS_KINDS

    return FAISS_KINDS[config.kind].build(config, embeddings)


def open_index(folder: Path, device: torch.device | str = "cpu") -> Index:
    """Open what `Index.save` wrote, embeddings memory-mapped.

    Raises:
        ValueError: a file is missing or damaged (which one).
    """
    config, described = read_description(folder)
    if isinstance(config, ExactIndex):
        from rlm.retrieval.exact import Exact

        return Exact(config, open_embeddings(folder, described), device)
    if isinstance(config, ShardedExact):
        from rlm.retrieval.sharded import Sharded

        return Sharded.of_all(config, open_embeddings(folder, described), device)
    from rlm.retrieval.faiss_indexes import FAISS_KINDS

    return FAISS_KINDS[config.kind].open(config, folder, described)


def read_description(folder: Path) -> tuple[IndexConfig, dict[str, Any]]:
    """`index.json`, after checking that every file it names has the size it says."""
    path = folder / "index.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        plain = described["config"]
        config = KINDS[plain["kind"]](**plain)
        files = described["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no index, or a damaged one ({error!r}); delete {folder}, build it again") from error
    for name, size in files:
        found = (folder / name).stat().st_size if (folder / name).exists() else None
        if found != size:
            what = "missing" if found is None else f"{found} bytes, {size} were written"
            raise ValueError(f"{folder / name}: damaged ({what}); delete {folder} and build it again")
    return config, described


def open_embeddings(folder: Path, described: dict[str, Any]) -> NDArray[np.float32]:
    """Memory-map `embeddings.npy` of an index (writes to it stay in memory)."""
    path = folder / "embeddings.npy"
    try:
        embeddings = np.load(path, mmap_mode="c")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); delete {folder} and build it again") from error
    expected = (described["passages"], described["dim"])
    if embeddings.shape != expected or embeddings.dtype != np.float32:
        raise ValueError(
            f"{path}: {embeddings.dtype} {embeddings.shape} on disk, float32 {expected} written; "
            f"delete {folder} and build it again"
        )
    return embeddings


def search_excluding(
    index: Index, queries: Tensor, k: int, excluded: NDArray[np.uint64], identity: NDArray[np.uint64]
) -> tuple[Tensor, Tensor]:
    """As `Index.search`, but never a passage of the identity that its query excludes; k stays full.

    Passages are told apart by identity (a hash of title and body), so that the copies of a passage go with it.

    Args:
        index: searched.
        queries: float32 [batch, dim].
        k: passages wanted for each query.
        excluded: what each query may not see, [batch].
        identity: of every passage, [passages].

    Raises:
        ValueError: the corpus has fewer than k other passages for some query, or the lengths disagree.
    """
    if len(excluded) != len(queries) or len(identity) != index.size:
        raise ValueError(
            f"{len(excluded)} exclusions for {len(queries)} queries, {len(identity)} identities for {index.size} "
            "passages: give one a query and one a passage"
        )

    def search(rows: NDArray[np.int64], depth: int) -> tuple[Tensor, Tensor]:
        return index.search(queries[torch.from_numpy(rows).to(queries.device)], depth)

    def allowed(rows: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.bool_]:
        return identity[found] != excluded[rows, None]

    return search_allowed(search, len(queries), index.size, k, allowed, queries.device, any_left=index.any_left)


def search_allowed(
    search: Search,
    count: int,
    size: int,
    k: int,
    allowed: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]],
    device: torch.device | str = "cpu",
    depth: int | None = None,
    any_left: Callable[[int], bool] = bool,
) -> tuple[Tensor, Tensor]:
    """The k best of those allowed; queries that come out short are searched again, deeper.

    Args:
        search: `search(queries by number [rows], depth)` gives scores and ids, [rows, depth].
        count: queries.
        size: passages that are searched.
        k: passages wanted for each query.
        allowed: `allowed(queries by number [rows], ids [rows, depth])` says which a query may see.
        device: of the result.
        depth: searched at first; None takes one more than k.
        any_left: see `Index.any_left`.

    Returns:
        scores float32 [count, k] and ids int64 [count, k].

    Raises:
        ValueError: fewer than k are allowed for some query.
    """
    scores = torch.empty(count, k, device=device)
    ids = torch.empty(count, k, dtype=torch.int64, device=device)
    rows, depth = np.arange(count), min(depth or k + 1, size)
    while any_left(len(rows)):  # an index over several ranks is searched by all of them, or none
        chosen = torch.from_numpy(rows).to(device)
        found_scores, found = (part.to(device) for part in search(rows, depth))
        # [rows, depth]
        kept = torch.from_numpy(allowed(rows, found.cpu().numpy()))
        full = (kept.sum(1) >= k).numpy()
        kept = kept.to(device)
        # allowed passages first, in their order
        first = torch.sort((~kept).to(torch.uint8), dim=1, stable=True).indices[:, :k]
        if full.any():
            done = torch.from_numpy(full).to(device)
            scores[chosen[done]] = found_scores.gather(1, first)[done]
            ids[chosen[done]] = found.gather(1, first)[done]
        rows = rows[~full]
        if len(rows) and depth == size:
            raise ValueError(
                f"k = {k}, but the corpus of {size} passages has fewer than that beside the excluded passage of "
                f"{len(rows)} queries; ask for fewer"
            )
        depth = min(depth + max(k, depth), size)
    return scores, ids
