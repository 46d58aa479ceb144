"""The report on a data folder."""

from pathlib import Path

import pytest

from rlm.data.checking import check_folder
from rlm.errors import ConfigError

PASSAGE = '{"id": "%s", "title": "T", "text": "x"}\n'
FILES = {
    "qa/a.train.jsonl": '{"question": "q", "answers": ["a"]}\n' * 3,
    "qa/nq.csv": "who?\t['a']\n",
    "wiki/p-00.jsonl": PASSAGE % 1 + PASSAGE % 2,
    "wiki/p-01.jsonl": PASSAGE % 3,
    "wiki/psgs.tsv": "id\ttext\ttitle\n1\tx\tT\n",
    "ner/a.conll": "Oslo\tB-LOC\nis\tO\n\nso\tO\n",
    "mt/a.jsonl": '{"en": "a", "de": "b"}\n',
    "README.md": "text",
}


def _folder(root: Path, **changed: str) -> Path:
    for name, text in (FILES | changed).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_check_folder__counts_what_each_file_holds(tmp_path: Path):
    reports = {str(r.path.relative_to(tmp_path)): r for r in check_folder(_folder(tmp_path))}
    assert {name: (report.kind, report.records) for name, report in reports.items()} == {
        "README.md": ("unknown", 0),
        "mt/a.jsonl": ("unknown", 0),
        "ner/a.conll": ("tags", 2),
        "qa/a.train.jsonl": ("questions", 3),
        "qa/nq.csv": ("questions", 1),
        "wiki/p-00.jsonl": ("passages", 2),
        "wiki/p-01.jsonl": ("passages", 1),
        "wiki/psgs.tsv": ("passages", 1),
    }
    assert not any(report.problems for report in reports.values())


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("qa/a.train.jsonl", '{"question": "q", "answers": []}\n', "qa/a.train.jsonl:1: `answers` is []"),
        (
            "qa/a.train.jsonl",
            '{"Question": "q", "answer": "a"}\n',
            "qa/a.train.jsonl:1: no `question`; the record has: Q",
        ),
        ("qa/a.train.jsonl", "{\n", "qa/a.train.jsonl:1: not JSON"),
        ("qa/a.train.jsonl", "", "qa/a.train.jsonl: holds no question"),
        ("wiki/p-01.jsonl", PASSAGE % 2, "wiki/p-01.jsonl:1: `id` '2' is also that of"),
        ("wiki/p-01.jsonl", '{"contents": "x"}\n', "wiki/p-01.jsonl:1: no `id`, `title`, `text`"),
        ("wiki/p-01.jsonl", "", "wiki/p-01.jsonl: holds no passage"),
        ("ner/a.conll", "Oslo\tB-LOC\nis\n", "ner/a.conll:2:"),
        ("mt/a.jsonl", "{\n", "mt/a.jsonl:1: not JSON"),
    ],
)
def test_check_folder__names_file_and_line(tmp_path: Path, name: str, text: str, problem: str):
    found = [problem for report in check_folder(_folder(tmp_path, **{name: text})) for problem in report.problems]
    assert len(found) == 1
    assert found[0].startswith(f"{tmp_path}/{problem}")


def test_check_folder__takes_a_single_file(tmp_path: Path):
    (report,) = check_folder(_folder(tmp_path) / "qa" / "nq.csv")
    assert report.records == 1


@pytest.mark.parametrize("name", ["nowhere", "empty", "mt"])
def test_check_folder__raises_when_there_is_nothing_to_check(tmp_path: Path, name: str):
    (_folder(tmp_path) / "empty").mkdir()
    with pytest.raises(ConfigError, match=f"{name}: (no such folder|holds no file of)"):
        list(check_folder(tmp_path / name))


@pytest.mark.data
def test_check_folder__finds_nothing_wrong_in_the_real_questions(data_folder: Path):
    reports = {report.path.name: report for report in check_folder(data_folder / "qa")}
    assert not any(report.problems for report in reports.values())
    assert reports["nq_open.test.jsonl"].records == 3360
