"""Question files."""

import json
from pathlib import Path

import pytest

from rlm.data.qa import Question, placed_questions, read_questions, write_questions
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


@pytest.mark.parametrize(
    ("text", "is_list"),
    [
        ('["Paris", "Lutetia"]', True),
        ("['Paris']", True),
        (" ['Paris' 'Lutetia'] ", True),
        ("('Paris', 'Lutetia')", True),
        ("{'Paris'}", True),
        ("[]", True),
        ('["\\u00e9"]', True),
        ("[0-9]+", False),
        ("[1998]", False),
        ("[a]", False),
        ("[Oslo] or so", False),
        (r"['\"]\d", False),
        ("()", False),
        ("('s)?", False),
        ('("Heroes")', False),
        ("[" * 5000, False),
        ("[" + "-" * 5000 + "1]", False),
    ],
)
@pytest.mark.parametrize("kind", ["string", "regex"])
@pytest.mark.parametrize("form", ["answers", "answer", "one of answers", "tsv"])
def test_read_questions__refuses_a_list_written_as_text(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, text: str, is_list: bool, kind: str, form: str
):
    if form == "tsv":
        path = tmp_path / "a.tsv"
        quoted = text.replace('"', '""')
        path.write_text(f'7\tq\t"{quoted}"\n')
    else:
        answers = {"answers": ["a", text]} if form == "one of answers" else {form: text}
        path = _file(tmp_path, {"question": "q", "answer_kind": kind, **answers})
    if is_list:
        with pytest.raises(ConfigError, match=r"a\.(tsv|jsonl):1: `answers` holds a list written as text.*itself"):
            read_questions(path)
    else:
        try:
            assert text in read_questions(path)[0].answers
        except ConfigError as error:
            assert "no regular expression" in str(error)
    assert not recwarn.list


def test_read_questions__of_parquet_refuses_a_list_written_as_text(tmp_path: Path):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"question": ["q"], "answers": [['["a"]']]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet:1: `answers` holds a list written as text"):
        read_questions(tmp_path / "a.parquet")


@pytest.mark.parametrize("field", ["id", "question", "answers", "answer"])
def test_read_questions__refuses_half_a_character_in_any_text(tmp_path: Path, field: str):
    good = {"id": "a", "question": "q", "answer" if field == "answer" else "answers": ["a"]}
    value = ["a", "b\ud83d"] if field.startswith("answer") else "b\ud83d"
    path = _file(tmp_path, good, {**good, field: value})
    named = "answers" if field.startswith("answer") else field
    with pytest.raises(ConfigError, match=rf"a\.jsonl:2: `{named}` holds half of a character \(\\ud83d"):
        read_questions(path)


def test_read_questions__refuses_half_a_character_that_a_tables_list_writes(tmp_path: Path):
    (tmp_path / "a.tsv").write_text("q\t['\\ud83d']\n")
    with pytest.raises(ConfigError, match=r"a\.tsv:1: `answers` holds half of a character"):
        read_questions(tmp_path / "a.tsv")


@pytest.mark.parametrize(
    "answers",
    ["{1, [2]}", "{[1]: 2}", "[" * 500, "-" * 5000 + "1", "0x" + "f" * 9000, "None", "5", "{'a': 1}", "['a', 1]"],
)
def test_read_questions__names_a_tables_answers_that_are_no_list_of_texts(tmp_path: Path, answers: str):
    (tmp_path / "a.tsv").write_text(f"q\t['a']\nq\t{answers}\n")
    with pytest.raises(ConfigError, match=r"a\.tsv:2: `answers` is .*; write") as caught:
        read_questions(tmp_path / "a.tsv")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("identity", [True, 1.5, {"a": 1}, ["b"], "", " "])
def test_read_questions__refuses_ids_that_are_no_text(tmp_path: Path, identity: object):
    path = _file(
        tmp_path, {"id": 3, "question": "q", "answers": ["a"]}, {"id": identity, "question": "q", "answers": ["a"]}
    )
    with pytest.raises(ConfigError, match=r"a\.jsonl:2: `id` is .*; write text or a whole number"):
        read_questions(path)


def test_read_questions__refuses_one_id_for_two_questions(tmp_path: Path):
    rows = [{"id": "1", "question": "q", "answers": ["a"]}, {"id": "x", "question": "q", "answers": ["a"]}]
    same = _file(tmp_path, *rows, {"id": 1, "question": "q", "answers": ["b"]}, name="same.jsonl")
    assert [question.id for question in read_questions(same)] == ["1", "x", "1"]
    other = _file(tmp_path, *rows, {"id": 1, "question": "r", "answers": ["a"]})
    with pytest.raises(
        ConfigError, match=rf"a\.jsonl:3: `id` '1' is also that of {other}:1; give each question its own"
    ):
        read_questions(other)
    numbered = _file(tmp_path, {"id": 2, "question": "q", "answers": ["a"]}, {"question": "r", "answers": ["a"]})
    with pytest.raises(ConfigError, match=r"a\.jsonl:2: `id` '2' is also that of .*a\.jsonl:1"):
        read_questions(numbered)


def test_read_questions__takes_patterns_as_the_released_evaluation(tmp_path: Path):
    rows = [
        {"question": "one of two", "answers": ["(Paris", "Rom"], "answer_kind": "regex"},
        {"question": "flags", "answers": ["(?a)b", "c"], "answer_kind": "regex"},
        {"question": "blank", "answers": ["", " "], "answer_kind": "regex"},
    ]
    notes: list[str] = []
    path = _file(tmp_path, *rows)
    assert [question.answers for question in read_questions(path, notes)] == [tuple(row["answers"]) for row in rows]
    assert [note.split(", no regular expression that can be used (")[0] for note in notes] == [
        f"{path}:1: `answers` holds '(Paris'",
        f"{path}:2: `answers` holds '(?a)b'",
    ]
    none = {"question": "none", "answers": ["(a", "b{99999999999999999999}"], "answer_kind": "regex"}
    with pytest.raises(ConfigError) as caught:
        read_questions(_file(tmp_path, *rows, none))
    first, second = str(caught.value).split("\n")
    assert first.startswith(f"{path}:4: `answers` holds '(a', no regular expression")
    assert second.startswith(f"{path}:4: `answers` holds 'b{{9999") and "too large" in second
    kept = placed_questions(_file(tmp_path, none), notes := [], unusable=True)
    assert [place for place, _ in kept] == [f"{path}:1"] and len(notes) == 2
    (_, question), *_ = placed_questions(_file(tmp_path, {"question": "q", "answers": ["(a", "b"]}), kind="regex")
    assert question.answer_kind == "regex"
