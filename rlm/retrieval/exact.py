"""Exact maximum inner product search in torch."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlm.retrieval.config import ExactIndex
from rlm.retrieval.index import Embeddings, Index


class Exact(Index):
    """Every passage is compared."""

    def __init__(self, config: ExactIndex, embeddings: Embeddings, device: torch.device | str = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        self.embeddings = torch.as_tensor(embeddings).to(self.device)

    @property
    def size(self) -> int:
        return len(self.embeddings)

    @property
    def dim(self) -> int:
        return self.embeddings.shape[1]

    @torch.no_grad()
    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        scores = queries.to(self.device) @ self.embeddings.T
        best = torch.sort(scores, dim=1, descending=True, stable=True)
        return best.values[:, :k].clone(), best.indices[:, :k].clone()

    def _save(self, folder: Path) -> None:
        path = folder / "embeddings.npy"
        if not path.exists():
            np.save(path, self.embeddings.float().cpu().numpy())
