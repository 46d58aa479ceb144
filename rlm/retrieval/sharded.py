"""Exact search with each rank of torch.distributed holding a share of the passages."""

from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rlm.retrieval.config import ShardedExact
from rlm.retrieval.exact import Exact
from rlm.retrieval.index import Embeddings, Index


class Sharded(Index):
    """An exact index over the ranks of the default process group; without one, the same as `Exact`.

    Passages are numbered rank by rank. Each rank may search for queries of its own, as many as it likes (none too), but
    all must search at the same time and for the same k: every rank compares the queries of all with its share, sends
    each rank the best for its queries, and merges what it is sent.

    Args:
        config: `dtype` of the scan.
        share: embeddings of this rank's passages, [passages of this rank, dim].
        device: scans there.

    Raises:
        ValueError: embeddings that are not finite.
    """

    def __init__(self, config: ShardedExact, share: Embeddings, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.local = Exact(config, share, device)
        self.sizes = _gathered(len(self.local), self._exchange_device)

    @classmethod
    def of_all(cls, config: ShardedExact, embeddings: Embeddings, device: torch.device | str = "cpu") -> Self:
        """This rank's share of all embeddings: consecutive passages, equally many to a passage.

        Raises:
            ValueError: fewer passages than ranks.
        """
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        count = len(embeddings)
        if count < ranks:
            raise ValueError(f"{count} passages for {ranks} ranks: each needs at least one; use `kind: exact`")
        return cls(config, embeddings[count * rank // ranks : count * (rank + 1) // ranks], device)

    @property
    def size(self) -> int:
        return sum(self.sizes)

    @property
    def dim(self) -> int:
        return self.local.dim

    @property
    def _exchange_device(self) -> torch.device:
        """Where the process group takes tensors from."""
        if dist.is_initialized() and dist.get_backend() == "nccl":
            return self.local.device
        return torch.device("cpu")

    def any_left(self, count: int) -> bool:
        return any(_gathered(count, self._exchange_device))

    @torch.no_grad()
    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        if len(self.sizes) == 1:
            return self.local._search(queries, k)
        at, device = self._exchange_device, self.local.device
        batches = _gathered(len(queries), at)
        padded = queries.new_zeros(max(batches), self.dim, device=at)
        padded[: len(queries)] = queries.to(at)
        every = [torch.empty_like(padded) for _ in batches]
        dist.all_gather(every, padded)
        asked = torch.cat([part[:batch] for part, batch in zip(every, batches, strict=True)])
        # [queries of all ranks, k]; a share smaller than k leaves places that lose to every passage
        scores = torch.full((len(asked), k), -torch.inf, dtype=torch.float64, device=at)
        ids = torch.zeros((len(asked), k), dtype=torch.int64, device=at)
        held = min(k, len(self.local))
        found_scores, found = self.local.best(asked.to(device), held)
        scores[:, :held], ids[:, :held] = found_scores.to(at), found.to(at) + sum(self.sizes[: dist.get_rank()])
        # [ranks, queries of this rank, k]
        scores, ids = (_sent_back(part, batches) for part in (scores, ids))
        # [queries, ranks * k]: ids ascend from rank to rank, so that a stable sort settles ties by lower id
        scores, ids = (part.transpose(0, 1).flatten(1) for part in (scores, ids))
        order = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :k]
        return scores.gather(1, order).float().to(device), ids.gather(1, order).to(device)

    def _save(self, folder: Path) -> None:
        """Every rank writes its rows of `embeddings.npy`, in a folder that all see."""
        path = folder / "embeddings.npy"
        first = not dist.is_initialized() or dist.get_rank() == 0
        missing = not path.exists()
        if dist.is_initialized():
            dist.barrier()
        if not missing:
            return
        if first:
            np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(self.size, self.dim)).flush()
        if dist.is_initialized():
            dist.barrier()
        start = sum(self.sizes[: dist.get_rank()]) if dist.is_initialized() else 0
        rows = np.load(path, mmap_mode="r+")
        rows[start : start + len(self.local)] = self.local.embeddings.float().cpu().numpy()
        rows.flush()
        if dist.is_initialized():
            dist.barrier()


def _gathered(count: int, at: torch.device) -> list[int]:
    """A number of every rank."""
    if not dist.is_initialized():
        return [count]
    counts = [torch.zeros(1, dtype=torch.int64, device=at) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([count], device=at))
    return [int(each) for each in counts]


def _sent_back(rows: Tensor, batches: list[int]) -> Tensor:
    """Rows for the queries of all ranks to the ranks that asked: [ranks, queries of this rank, k]."""
    mine = batches[dist.get_rank()]
    out = rows.new_empty(len(batches) * mine, rows.shape[1])
    dist.all_to_all_single(out, rows.contiguous(), [mine] * len(batches), batches)
    return out.view(len(batches), mine, rows.shape[1])
