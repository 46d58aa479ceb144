import pytest
import torch

from rlm.metrics.retrieval import RecallAtK
from tests.metrics.processes import in_two_processes

RANKS = torch.tensor([1, 0, 5, 6, 20, 2, 21, 1, 0])


def recall(first: int, end: int) -> dict[str, float]:
    metric = RecallAtK(k=(1, 5, 20))
    for batch in RANKS[first:end].split(2):
        metric.update(batch)
    return {name: value.item() for name, value in metric.compute().items()}


def test_recall_at_k__counts_ranks_up_to_k_and_never_zero():
    assert recall(0, 9) == pytest.approx({"recall@1": 100 * 2 / 9, "recall@5": 100 * 4 / 9, "recall@20": 100 * 6 / 9})


def test_recall_at_k__equals_one_process_when_two_share_the_questions_unevenly():
    assert in_two_processes(recall, [(0, 2), (2, 9)]) == [recall(0, 9)] * 2


def test_recall_at_k__keeps_the_ks_it_was_given():
    metric = RecallAtK(k=[3])
    metric.update(torch.tensor([3, 4], dtype=torch.int32))
    assert metric.compute() == {"recall@3": 50}


@pytest.mark.parametrize("k", [(), (0, 5)])
def test_recall_at_k__refuses_ks_that_count_no_passage(k):
    with pytest.raises(ValueError, match="at least 1"):
        RecallAtK(k=k)
