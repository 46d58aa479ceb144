import math

import pytest

from rlm.metrics.exact_match import ExactMatch
from tests.metrics.processes import in_two_processes

PREDICTIONS = ["The Beatles!", "beatle", "about 1999", "1999", "", "Café", "x"]
ANSWERS = [("Wings", "Beatles"), ("Beatles",), (r"\d{4}",), (r"19\d\d",), ("Paris",), ("Cafe\u0301",), ("x", "y")]
KINDS = ["string", "string", "regex", "regex", "string", "string", "string"]


def scored(first: int, end: int) -> float:
    metric = ExactMatch()
    for row in range(first, end):  # one at a time, so that updates add up
        metric.update(PREDICTIONS[row : row + 1], ANSWERS[row : row + 1], KINDS[row : row + 1])
    return metric.compute().item()


def test_exact_match__is_the_percentage_of_right_predictions():
    assert scored(0, 7) == pytest.approx(100 * 4 / 7)
    assert scored(1, 3) == 0


def test_exact_match__equals_one_process_when_two_share_the_questions_unevenly():
    both = in_two_processes(scored, [(0, 2), (2, 7)])
    assert both == [scored(0, 7)] * 2


def test_exact_match__forgets_when_reset():
    metric = ExactMatch()
    metric.update(["x"], [("x",)], ["string"])
    metric.reset()
    metric.update(["x"], [("y",)], ["string"])
    assert metric.compute() == 0


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_exact_match__is_nan_before_the_first_prediction():
    assert math.isnan(ExactMatch().compute())


def test_exact_match__counts_nothing_when_lengths_differ():
    metric = ExactMatch()
    with pytest.raises(ValueError, match="shorter"):
        metric.update(["x", "y"], [("x",)], ["string", "string"])
    assert metric.total == 0


def test_exact_match__counts_nothing_when_a_question_has_no_answer():
    metric = ExactMatch()
    with pytest.raises(ValueError, match="at least one accepted answer"):
        metric.update(["x", "y"], [("x",), ()], ["string", "string"])
    assert metric.total == 0
