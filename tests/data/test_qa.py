"""Question files."""

import json
from pathlib import Path

import pytest

from rlm.data.qa import Question, read_questions, write_questions
from rlm.errors import ConfigError


def _file(folder: Path, *rows: dict, name: str = "a.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_read_questions__takes_either_name_of_answers_and_kind(tmp_path: Path):
    path = _file(
        tmp_path,
        {"question": "who?", "answers": ["A", "B"]},
        {"id": 7, "question": "where?", "answer": "C", "extra": 1},
        {"id": "x", "question": "when?", "answers": ["19\\d\\d"], "answer_type": "regex"},
        {"id": None, "question": "why?", "answer": ["D"], "answer_kind": "string"},
    )
    assert read_questions(path) == [
        Question("1", "who?", ("A", "B"), "string"),
        Question("7", "where?", ("C",), "string"),
        Question("x", "when?", ("19\\d\\d",), "regex"),
        Question("4", "why?", ("D",), "string"),
    ]


def test_read_questions__reads_dprs_tables(tmp_path: Path):
    path = tmp_path / "nq-test.csv"
    path.write_text('who sang it\t[\'Ann\', "O\'Neil"]\nwho "won"\t"[\'the ""Reds""\']"\n')
    assert read_questions(path) == [
        Question("1", "who sang it", ("Ann", "O'Neil"), "string"),
        Question("2", 'who "won"', ('the "Reds"',), "string"),
    ]


def test_read_questions__reads_regular_expressions_of_curated_trec(tmp_path: Path):
    two, three = tmp_path / "curatedtrec-test.csv", tmp_path / "trec.tsv"
    two.write_text("how tall?\t['6\\\\s?m']\n")
    three.write_text("1669\thow tall?\t6\\s?m|20 ft\n")
    assert read_questions(two) == [Question("1", "how tall?", (r"6\s?m",), "regex")]
    assert read_questions(three) == [Question("1669", "how tall?", (r"6\s?m|20 ft",), "regex")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_write_questions__is_read_back_unchanged(tmp_path: Path, name: str):
    questions = [Question("1", "wo ist Köln?", ("am Rhein",)), Question("2", "when?", ("19\\d\\d", "a"), "regex")]
    write_questions(tmp_path / name, questions)
    assert read_questions(tmp_path / name) == questions


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answers": ["a"]}, "no `question`; the record has: answers"),
        ({"question": " ", "answers": ["a"]}, "`question` is ' '; write the question as text"),
        ({"question": ["q"], "answers": ["a"]}, "`question` is ['q']; write the question as text"),
        ({"question": "q", "Answers": ["a"]}, "no `answers`; the record has: question, Answers"),
        ({"question": "q", "answers": []}, "`answers` is []; write at least one text"),
        ({"question": "q", "answers": ["a", ""]}, "`answers` is ['a', '']; write at least one text"),
        ({"question": "q", "answers": [5]}, "`answers` is [5]; write at least one text"),
        ({"question": "q", "answers": {"a": 1}}, "`answers` is {'a': 1}; write at least one text"),
        ({"question": "q", "answers": ["a"], "answer_type": "regexp"}, "`answer_kind` is 'regexp'; write string or"),
        ({"question": "q", "answers": ["(a"], "answer_kind": "regex"}, "`answers` holds '(a', no regular expression"),
    ],
)
def test_read_questions__names_line_and_field(tmp_path: Path, row: dict, message: str):
    path = _file(tmp_path, {"question": "q", "answers": ["a"]}, row)
    with pytest.raises(ConfigError) as caught:
        read_questions(path)
    assert str(caught.value).startswith(f"{path}:2: {message}")


def test_read_questions__shows_all_problems_of_a_file(tmp_path: Path):
    path = _file(tmp_path, {"question": ""}, {"question": "q", "answers": ["a"]}, {"question": "q", "answer": []})
    with pytest.raises(ConfigError) as caught:
        read_questions(path)
    places = [line.split(": ")[0] for line in str(caught.value).splitlines()]
    assert places == [f"{path}:1", f"{path}:1", f"{path}:3"]


def test_read_questions__names_an_answer_that_is_no_list(tmp_path: Path):
    path = tmp_path / "nq.csv"
    path.write_text("who?\tAnn\n")
    with pytest.raises(ConfigError, match=r"nq.csv:1: `answers` is 'Ann'; write a list like \['Paris'"):
        read_questions(path)


def test_read_questions__refuses_an_empty_file(tmp_path: Path):
    with pytest.raises(ConfigError, match="holds no question"):
        read_questions(_file(tmp_path))


def test_read_questions__says_which_file_is_missing(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"b\.jsonl: cannot be read"):
        read_questions(tmp_path / "b.jsonl")
