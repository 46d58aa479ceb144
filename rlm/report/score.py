"""Exact match of any system's predictions."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Literal

from rlm.data.qa import Question, read_questions
from rlm.errors import ConfigError
from rlm.metrics.answers import exact_match

AnswerKind = Literal["string", "regex"]


@dataclass(frozen=True, slots=True)
class Score:
    """How many questions a system answers."""

    right: int
    n: int
    unanswered: int
    """Questions without a prediction: counted as wrong."""

    @property
    def exact_match(self) -> float:
        """Percent."""
        return 100 * self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval, percent."""
        return wilson(self.right, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        missing = (
            f"\n{self.unanswered:,} of the questions have no prediction: counted as wrong" if self.unanswered else ""
        )
        return (
            f"exact match {self.exact_match:.2f} (95 % Wilson interval {low:.2f} to {high:.2f},"
            f" {self.right:,} of n = {self.n:,}){missing}"
        )


def score_files(predictions: Path, answers: Path, answer_kind: AnswerKind | None = None) -> Score:
    """Score lines `{"id" or "question", "prediction"}` against questions with answers; null is no prediction.

    Args:
        predictions: JSON Lines.
        answers: JSON Lines of questions, as data sets have them.
        answer_kind: in place of each question's own.

    Raises:
        ConfigError: a line that is not as above, or names no question, or a question named before; with its place.
    """
    questions = read_questions(answers)
    by_name = _by_name(questions, answers)
    right, unanswered, answered = 0, len(questions), dict[int, str]()
    for place, named, name, prediction in _read_predictions(predictions):
        found = by_name[named].get(name, [])
        if not found:
            raise ConfigError(f"{place}: {named} `{name}` is not among the {len(questions)} questions of {answers}")
        if len(found) > 1:
            raise ConfigError(f"{place}: {answers} asks `{name}` {len(found)} times; write the `id` instead")
        (index,) = found
        if index in answered:
            raise ConfigError(f"{place}: {named} `{name}` was predicted before, at {answered[index]}; keep one")
        answered[index] = place
        question = questions[index]
        if prediction is not None:
            unanswered -= 1
            right += exact_match(prediction, question.answers, answer_kind or question.answer_kind)
    return Score(right, len(questions), unanswered)


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion, percent (Wilson 1927): never beyond 0 and 100, unlike mean ± 2 errors."""
    z = NormalDist().inv_cdf(0.975)
    share, weight = right / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / weight
    half = z / weight * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))


def _by_name(questions: list[Question], answers: Path) -> dict[str, dict[str, list[int]]]:
    if not questions:
        raise ConfigError(f"{answers}: no questions")
    names: dict[str, dict[str, list[int]]] = {"id": {}, "question": {}}
    for index, question in enumerate(questions):
        names["id"].setdefault(question.id, []).append(index)
        names["question"].setdefault(question.question, []).append(index)
    return names


def _read_predictions(path: Path) -> Iterator[tuple[str, str, str, str | None]]:
    """Place, `id` or `question`, its value, and the prediction, of each line."""
    expected = 'write {"id": "...", "prediction": "..."} or {"question": "...", "prediction": "..."}'
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # Not splitlines: JSON may hold other separators.
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: no UTF-8 ({error})") from None
    for number, line in enumerate(lines, 1):
        place = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{place}: no JSON ({error}); {expected}") from None
        named = next((name for name in ("id", "question") if isinstance(value, dict) and name in value), None)
        if named is None:
            raise ConfigError(f"{place}: neither `id` nor `question`; {expected}")
        name = value[named]
        if isinstance(name, int) and named == "id" and not isinstance(name, bool):
            name = str(name)
        if "prediction" not in value:
            raise ConfigError(f"{place}: no `prediction`; {expected}")
        prediction = value["prediction"]
        if not isinstance(name, str) or not isinstance(prediction, str | None):
            wrong = "prediction" if isinstance(name, str) else named
            raise ConfigError(f"{place}: {wrong}: found {json.dumps(value[wrong])}; {expected}")
        yield place, named, name, prediction
