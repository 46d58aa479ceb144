"""Questions with their accepted answers: the files of open-domain QA data sets."""

import ast
import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rlm.answer_patterns import answer_pattern
from rlm.data.records import TABLE_ENDINGS, Problems, Record, identity_of, lone_surrogate, read_records, text_of
from rlm.data.text_files import create_text
from rlm.errors import ConfigError, listed, quoted

AnswerKind = Literal["string", "regex"]
KINDS = ("string", "regex")
LAYOUTS = {2: ("question", "answers"), 3: ("id", "question", "pattern")}
"""Columns of tab-separated files, which have no header."""


class Question(NamedTuple):
    """One question; an answer is right if it equals (`string`) or matches (`regex`) any of `answers`."""

    id: str
    question: str
    answers: tuple[str, ...]
    answer_kind: AnswerKind = "string"


def read_questions(path: Path, notes: list[str] | None = None) -> list[Question]:
    """The questions of a file, in its order.

    Forms, known by the name (all but Parquet may be compressed, `.gz`):

    - `.jsonl`, `.json`, `.parquet`: records with `question`, `answers` or `answer` (a list, or one string), and
      optionally `id` (default: the line number) and `answer_kind` or `answer_type` (`string`, the default, or `regex`);
    - `.tsv`, `.csv`, tab-separated without a header, as DPR has them: `question`, `['answer', ...]`. These are regular
      expressions if the file's name holds `curated`, since nothing in DPR's CuratedTREC files says so;
    - the same endings with three columns: `id`, `question`, regular expression (CuratedTREC).

    Args:
        path: of the file.
        notes: gets a line for each answer pattern that cannot be used, where its question has others.

    Raises:
        ConfigError: every problem of the file (the first ten), each with its line and what to write instead.
    """
    return [question for _, question in placed_questions(path, notes)]


def placed_questions(
    path: Path, notes: list[str] | None = None, kind: AnswerKind | None = None, unusable: bool = False
) -> list[tuple[str, Question]]:
    """As `read_questions`, with the place of each (`file:line`).

    Args:
        path: of the file.
        notes: gets a line for each answer pattern that cannot be used.
        kind: of all answers, in place of what the file says.
        unusable: keep questions none of whose patterns can be used, which nothing answers, as the released evaluation
            scores them.
    """
    problems = Problems()
    read = ((record.place, question_of(record, problems, notes, kind, unusable)) for record in _records(path, problems))
    questions = list(distinct(read, problems))
    problems.check()
    if not questions:
        raise ConfigError(f'{path}: holds no question; write lines like {{"question": "...", "answers": ["..."]}}')
    return questions


def distinct(questions: Iterable[tuple[str, Question | None]], problems: Problems) -> Iterator[tuple[str, Question]]:
    """Questions, without those whose id is that of another: predictions are told apart by it.

    One question may stand there several times, as in a file of its gold passages.
    """
    known: dict[str, tuple[str, str]] = {}
    for place, question in questions:
        if question is None:
            continue
        first, text = known.setdefault(question.id, (place, question.question))
        if text == question.question:
            yield place, question
        else:
            problems.add(f"{place}: `id` {quoted(question.id)} is also that of {first}; give each question its own")


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Write JSON Lines (compressed if the name ends in `.gz`) that `read_questions` reads back unchanged."""
    with create_text(path) as file:
        for question in questions:
            file.write(json.dumps(question._asdict(), ensure_ascii=False) + "\n")


def question_of(
    record: Record,
    problems: Problems,
    notes: list[str] | None = None,
    kind: AnswerKind | None = None,
    unusable: bool = False,
) -> Question | None:
    """The question in a record; None, and its problems added, if it cannot be used.

    Args:
        record: of a file or a hub's data set.
        problems: of these records.
        notes: gets a line for each answer pattern that cannot be used, where the question is.
        kind: see `placed_questions`.
        unusable: see `placed_questions`.
    """
    place, number, fields = record.place, record.number, record.fields
    found = f"the record has: {listed(fields)}"
    before = len(problems.messages)
    text = fields.get("question")
    if text is None:
        problems.add(f"{place}: no `question`; {found}")
    elif not isinstance(text, str) or not text.strip():
        problems.add(f"{place}: `question` is {quoted(text)}; write the question as text")
    else:
        text_of(record, "question", problems)
    identity = str(number) if fields.get("id") is None else identity_of(record, problems)
    kind = kind or fields.get("answer_kind", fields.get("answer_type", "string"))
    if kind not in KINDS:
        problems.add(f"{place}: `answer_kind` is {quoted(kind)}; write string or regex")
    answers = fields.get("answers", fields.get("answer"))
    if answers is None:
        problems.add(f"{place}: no `answers`; {found}")
        return None
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, (list, tuple)) or not answers or not all(_is_answer(each, kind) for each in answers):
        problems.add(f'{place}: `answers` is {quoted(answers)}; write at least one text, like ["Paris"]')
        return None
    for answer in answers:
        if half := lone_surrogate(answer):
            problems.add(f"{place}: `answers` holds {half}; remove or repair it")
        elif _is_list(answer):
            problems.add(
                f"{place}: `answers` holds a list written as text, {quoted(answer)}; write the list itself, like"
                ' ["Paris", "Lutetia"]'
            )
    if identity is None or len(problems.messages) > before:
        return None
    if kind == "regex":
        patterns = [answer_pattern(answer) for answer in answers]
        faults = [
            f"{place}: `answers` holds {quoted(pattern.text)}, no regular expression that can be used"
            f" ({pattern.fault}): it matches nothing; correct it"
            for pattern in patterns
            if pattern.fault
        ]
        if len(faults) == len(patterns) and not unusable:
            for fault in faults:
                problems.add(fault)
            return None
        if notes is not None:
            notes += faults
    return Question(identity, str(text), tuple(answers), kind)


def _is_answer(value: Any, kind: str) -> bool:
    """A blank regular expression is one, which matches."""
    return isinstance(value, str) and (kind == "regex" or bool(value.strip()))


_UNREADABLE = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
"""What parsers of literals raise."""


def _is_list(text: str) -> bool:
    """Whether a text is how JSON or Python writes a list (tuple, set) of texts: neither an answer nor a pattern."""
    if text.strip()[:1] not in ("[", "(", "{"):
        return False
    for parse in (json.loads, _literal):
        with suppress(*_UNREADABLE):
            value = parse(text.strip())
            if isinstance(value, list) or (value and isinstance(value, (tuple, set))):
                return all(isinstance(each, str) for each in value)
    return False


def _literal(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of backslashes in patterns
        return ast.literal_eval(text)


def _records(path: Path, problems: Problems) -> Iterator[Record]:
    for record in read_records(path, problems, LAYOUTS):
        if not path.name.endswith(TABLE_ENDINGS):
            yield record
        elif "pattern" in record.fields:
            pattern = {"answers": record.fields["pattern"], "answer_kind": "regex"}
            yield record._replace(fields={**record.fields, **pattern})
        else:
            try:
                answers = _literal(record.fields["answers"])
                if not isinstance(answers, (list, tuple, str)):
                    raise TypeError
            except _UNREADABLE:
                answer = quoted(record.fields["answers"])
                problems.add(f"{record.place}: `answers` is {answer}; write a list like ['Paris', 'Lutetia']")
                continue
            kind = "regex" if "curated" in path.name.lower() else "string"
            yield record._replace(fields={**record.fields, "answers": answers, "answer_kind": kind})
