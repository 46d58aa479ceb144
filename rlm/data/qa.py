"""Questions with their accepted answers: the files of open-domain QA data sets."""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rlm.data.records import TABLE_ENDINGS, Problems, Record, open_text, read_records
from rlm.errors import ConfigError

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


def read_questions(path: Path) -> list[Question]:
    """The questions of a file, in its order.

    Forms, known by the name (all but Parquet may be compressed, `.gz`):

    - `.jsonl`, `.json`, `.parquet`: records with `question`, `answers` or `answer` (a list, or one string), and
      optionally `id` (default: the line number) and `answer_kind` or `answer_type` (`string`, the default, or `regex`);
    - `.tsv`, `.csv`, tab-separated without a header, as DPR has them: `question`, `['answer', ...]`. These are regular
      expressions if the file's name holds `curated`, since nothing in DPR's CuratedTREC files says so;
    - the same endings with three columns: `id`, `question`, regular expression (CuratedTREC).

    Raises:
        ConfigError: every problem of the file (the first ten), each with its line and what to write instead.
    """
    problems = Problems()
    questions = []
    for record in _records(path, problems):
        question = question_of(record, problems)
        if question is not None:
            questions.append(question)
    problems.check()
    if not questions:
        raise ConfigError(f'{path}: holds no question; write lines like {{"question": "...", "answers": ["..."]}}')
    return questions


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Write JSON Lines (compressed if the name ends in `.gz`) that `read_questions` reads back unchanged."""
    with open_text(path, "w") as file:
        for question in questions:
            file.write(json.dumps(question._asdict(), ensure_ascii=False) + "\n")


def question_of(record: Record, problems: Problems) -> Question | None:
    """The question in a record; None, and its problems added, if it cannot be used."""
    place, number, fields = record
    found = f"the record has: {', '.join(fields) or 'nothing'}"
    before = len(problems.messages)
    text = fields.get("question")
    if text is None:
        problems.add(f"{place}: no `question`; {found}")
    elif not isinstance(text, str) or not text.strip():
        problems.add(f"{place}: `question` is {text!r}; write the question as text")
    kind = fields.get("answer_kind", fields.get("answer_type", "string"))
    if kind not in KINDS:
        problems.add(f"{place}: `answer_kind` is {kind!r}; write string or regex")
    answers = fields.get("answers", fields.get("answer"))
    if answers is None:
        problems.add(f"{place}: no `answers`; {found}")
        return None
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, (list, tuple)) or not answers or not all(map(_is_text, answers)):
        problems.add(f'{place}: `answers` is {answers!r}; write at least one text, like ["Paris"]')
    elif kind == "regex":
        for pattern in answers:
            try:
                re.compile(pattern)
            except re.error as error:
                problems.add(f"{place}: `answers` holds {pattern!r}, no regular expression ({error}); correct it")
    if len(problems.messages) > before:
        return None
    identity = fields.get("id")
    return Question(str(number if identity is None else identity), str(text), tuple(answers), kind)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _records(path: Path, problems: Problems) -> Iterator[Record]:
    for record in read_records(path, problems, LAYOUTS):
        if not path.name.endswith(TABLE_ENDINGS):
            yield record
        elif "pattern" in record.fields:
            answer = {"answers": record.fields["pattern"], "answer_kind": "regex"}
            yield record._replace(fields={**record.fields, **answer})
        else:
            try:
                answers = ast.literal_eval(record.fields["answers"])
            except (ValueError, SyntaxError):
                answer = record.fields["answers"]
                problems.add(f"{record.place}: answers {answer!r}; write a list like ['Paris', 'Lutetia']")
                continue
            kind = "regex" if "curated" in path.name.lower() else "string"
            yield record._replace(fields={**record.fields, "answers": answers, "answer_kind": kind})
