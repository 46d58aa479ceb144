"""Exact match over any number of processes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from rlm.metrics.answers import AnswerKind, exact_match


class ExactMatch(Metric):
    """Percentage of predictions that are right, as `rlm.metrics.answers.exact_match` says."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    correct: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], answers: Sequence[Sequence[str]], kinds: Sequence[AnswerKind]) -> None:
        """Count predictions, each with the acceptable answers of its question and their kind.

        Raises ValueError where the three differ in length, a kind is unknown, or a question has no answer.
        """
        right = [exact_match(*scored) for scored in zip(predictions, answers, kinds, strict=True)]
        self.correct += sum(right)
        self.total += len(right)

    def compute(self) -> Tensor:
        """Scalar in percent; nan before the first prediction."""
        return 100 * self.correct.double() / self.total
