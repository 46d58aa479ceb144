"""Retrieval recall over any number of processes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class RecallAtK(Metric):
    """Percentage of questions with an answer in one of the first k passages, for each k (DPR's top-k accuracy).

    Args:
        k: how many passages count, e.g. (1, 5, 20).

    Raises ValueError where a k is below 1.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    hits: Tensor
    total: Tensor

    def __init__(self, k: Sequence[int] = (1, 5, 20)) -> None:
        super().__init__()
        if not k or min(k) < 1:
            raise ValueError(f"recall at k={tuple(k)}: write one or more numbers of passages, each at least 1")
        self.k = tuple(k)
        self.add_state("hits", torch.zeros(len(self.k), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, ranks: Tensor) -> None:
        """Count questions.

        Args:
            ranks: int [questions], place of the first passage that holds an answer, from 1; 0 where none does.
        """
        depths = torch.tensor(self.k, device=ranks.device)
        # [questions, k]
        hit = (ranks[:, None] > 0) & (ranks[:, None] <= depths)
        self.hits += hit.sum(dim=0)
        self.total += len(ranks)

    def compute(self) -> dict[str, Tensor]:
        """`recall@k` -> scalar in percent, for each k; nan before the first question."""
        recall = 100 * self.hits.double() / self.total
        return {f"recall@{k}": value for k, value in zip(self.k, recall, strict=True)}
