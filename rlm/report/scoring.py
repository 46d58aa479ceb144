"""Exact match of any system's predictions."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Literal

from rlm.answer_patterns import SECONDS, UnusablePattern, answer_pattern
from rlm.data.qa import Question, placed_questions
from rlm.data.records import Problems, identity_of, json_records, text_of
from rlm.errors import ConfigError, quoted
from rlm.metrics.answers import exact_match

AnswerKind = Literal["string", "regex"]
EXPECTED = 'write lines {"id": "...", "prediction": "..."} or {"question": "...", "prediction": "..."}'


@dataclass(frozen=True, slots=True)
class Score:
    """How many questions a system answers."""

    right: int
    n: int
    unanswered: int
    """Questions without a prediction: counted as wrong."""
    notes: tuple[str, ...] = ()
    """Answer patterns that match nothing, each with file and line."""

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
            f" {self.right:,} of n = {self.n:,}){missing}" + "".join(f"\n{note}" for note in self.notes)
        )


def score_files(predictions: Path, answers: Path, answer_kind: AnswerKind | None = None) -> Score:
    """Score lines `{"id" or "question", "prediction"}` against questions with answers; null is no prediction.

    Args:
        predictions: JSON Lines.
        answers: questions, as data sets have them. A pattern that cannot be used matches nothing, as in the released
            ORQA evaluation.
        answer_kind: in place of each question's own.

    Raises:
        ConfigError: lines that are not as above, or name no question, or a question named before; with their places.
    """
    notes: list[str] = []
    questions = placed_questions(answers, notes, answer_kind, unusable=True)
    find = _Finder(questions, answers)
    problems, answered = Problems(), dict[int, str]()
    right, unanswered = 0, len(questions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusablePattern)  # the notes have them, with their places
        for place, named, name, prediction in _read_predictions(predictions, problems):
            try:
                index = find(place, named, name)
                if index in answered:
                    raise ConfigError(
                        f"{place}: {named} {quoted(name)} was predicted before, at {answered[index]}; keep one"
                    )
            except ConfigError as error:
                problems.add(str(error))
                continue
            answered[index] = place
            question = questions[index][1]
            if prediction is not None:
                unanswered -= 1
                right += exact_match(prediction, question.answers, question.answer_kind)
    problems.check()
    if not answered:
        raise ConfigError(f"{predictions}: holds no prediction; {EXPECTED}")
    return Score(right, len(questions), unanswered, (*notes, *_slow(questions)))


def _slow(questions: list[tuple[str, Question]]) -> Iterator[str]:
    """Patterns that did not end on a prediction."""
    for place, question in questions:
        for answer in question.answers if question.answer_kind == "regex" else ():
            if "match" in answer_pattern(answer).slow:
                yield (
                    f"{place}: `answers` holds {quoted(answer)}, which ran for more than {SECONDS:g} s on a prediction:"
                    " it matches nothing; write it without repetitions of repetitions"
                )


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion, percent (Wilson 1927): never beyond 0 and 100, unlike mean ± 2 errors."""
    z = NormalDist().inv_cdf(0.975)
    share, weight = right / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / weight
    half = z / weight * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))


class _Finder:
    """Finds the question that a prediction is of, by its id or its text."""

    def __init__(self, questions: list[tuple[str, Question]], answers: Path) -> None:
        self.questions, self.answers = questions, answers
        self.known: dict[str, dict[str, list[int]]] = {"id": {}, "question": {}}
        for index, (_, question) in enumerate(questions):
            self.known["id"].setdefault(question.id, []).append(index)
            self.known["question"].setdefault(question.question, []).append(index)

    def __call__(self, place: str, named: str, name: str) -> int:
        found = self.known[named].get(name, [])
        if not found:
            raise ConfigError(
                f"{place}: {named} {quoted(name)} is not among the {len(self.questions)} questions of {self.answers}"
            )
        if len(found) > 1:
            ids = [self.questions[index][1].id for index in found]
            if len(set(ids)) == len(ids):
                raise ConfigError(
                    f"{place}: {self.answers} asks {quoted(name)} {len(found)} times; write the `id` instead"
                )
            same = next(each for each in ids if ids.count(each) > 1)
            first, again = [self.questions[index][0] for index in found if self.questions[index][1].id == same][:2]
            raise ConfigError(f"{again}: `id` {quoted(same)} is also that of {first}; give each question its own")
        return found[0]


def _read_predictions(path: Path, problems: Problems) -> Iterator[tuple[str, str, str, str | None]]:
    """Place, `id` or `question`, its value, and the prediction, of each line that has them."""
    for record in json_records(path, problems):
        place, fields = record.place, record.fields
        named = next((name for name in ("id", "question") if name in fields), None)
        if named is None or "prediction" not in fields:
            problems.add(f"{place}: {'no `prediction`' if named else 'neither `id` nor `question`'}; {EXPECTED}")
            continue
        name = identity_of(record, problems) if named == "id" else text_of(record, named, problems)
        prediction = fields["prediction"]
        if prediction is not None:
            prediction = text_of(record, "prediction", problems)
        if name is not None and (prediction is not None or fields["prediction"] is None):
            yield place, named, name, prediction
