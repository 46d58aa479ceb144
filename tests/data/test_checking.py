"""The report on a data folder."""

import gzip
import os
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


def _problems(folder: Path) -> list[str]:
    return [problem.removeprefix(f"{folder}/") for report in check_folder(folder) for problem in report.problems]


def test_check_folder__names_whatever_cannot_be_reached(tmp_path: Path):
    _folder(tmp_path)
    (tmp_path / "wiki" / "p-02.jsonl").symlink_to("gone.jsonl")
    (tmp_path / "again").symlink_to("again")
    (tmp_path / "all").symlink_to(".")
    (tmp_path / "qa" / "up").symlink_to("../..")
    os.mkfifo(tmp_path / "qa" / "pipe.jsonl")
    assert sorted(problem.split(";")[0] for problem in _problems(tmp_path)) == [
        "again: a link to again, which leads back to it",
        f"all: a link to {tmp_path}, a folder that it is in",
        "qa/pipe.jsonl: a pipe, not a file",
        f"qa/up: a link to {tmp_path.parent}, a folder that it is in",
        "wiki/p-02.jsonl: a link to gone.jsonl, which is not there (No such file or directory)",
    ]


def test_check_folder__follows_links_to_folders_once(tmp_path: Path):
    _folder(tmp_path / "elsewhere", **{"wiki/p-00.jsonl": PASSAGE % 1 + PASSAGE % 1})
    (tmp_path / "data").mkdir()
    for name in ("first", "second"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere" / "wiki")
    assert [problem.split(": ")[0] for problem in _problems(tmp_path / "data")] == ["first/p-00.jsonl:2"]
    (tmp_path / "elsewhere" / "linked").symlink_to("wiki")  # read there by its own name
    assert [problem.split(": ")[0] for problem in _problems(tmp_path / "elsewhere")] == ["wiki/p-00.jsonl:2"]


@pytest.mark.parametrize("what", ["folder", "data file", "other file"])
def test_check_folder__names_what_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str):
    _folder(tmp_path)
    name = {"folder": "wiki", "data file": "wiki/p-01.jsonl", "other file": "README.md"}[what]

    def refusing(call):
        def called(path, *args, **options):
            if path == tmp_path / name:
                raise PermissionError(13, "Permission denied", str(path))
            return call(path, *args, **options)

        return called

    monkeypatch.setattr(Path, "iterdir", refusing(Path.iterdir))  # root may read anything
    monkeypatch.setattr(Path, "open", refusing(Path.open))
    (problem,) = _problems(tmp_path)
    assert problem.startswith(f"{name}: ") and "(Permission denied); give yourself permission" in problem


@pytest.mark.parametrize("between", ["p-00.jsonl.sha256", "p-00.jsonx", "p-000/a.jsonl", "p-00a-1.jsonl"])
def test_check_folder__finds_an_id_twice_whatever_lies_between_the_files(tmp_path: Path, between: str):
    _folder(tmp_path, **{"wiki/p-01.jsonl": PASSAGE % 9 + PASSAGE % 2, f"wiki/{between}": PASSAGE % 2})
    assert [problem.split(";")[0] for problem in _problems(tmp_path)] == [
        f"wiki/p-01.jsonl:2: `id` '2' is also that of {tmp_path}/wiki/p-00.jsonl:2"
    ]


def test_check_folder__finds_an_id_twice_in_numbered_folders(tmp_path: Path):
    _folder(tmp_path, **{"a1/p.jsonl": PASSAGE % 1, "a1/q.jsonl": PASSAGE % 1, "a2/p.jsonl": PASSAGE % 1})
    assert [problem.split(": ")[0] for problem in _problems(tmp_path)] == ["a2/p.jsonl:1"]


def test_check_folder__tells_of_patterns_that_match_nothing_and_fails_where_none_can(tmp_path: Path):
    line = '{"question": "q", "answers": %s, "answer_kind": "regex"}\n'
    _folder(tmp_path, **{"qa/a.train.jsonl": line % '["(a", "b"]' + line % '["c"]'})
    reports = {report.path.name: report for report in check_folder(tmp_path)}
    assert not any(report.problems for report in reports.values())
    (note,) = reports["a.train.jsonl"].notes
    assert note.startswith(f"{tmp_path}/qa/a.train.jsonl:1: `answers` holds '(a'") and "matches nothing" in note
    _folder(tmp_path, **{"qa/a.train.jsonl": line % '["(a", "b"]' + line % '["(c"]'})
    (problem,) = _problems(tmp_path)
    assert problem.startswith("qa/a.train.jsonl:2: `answers` holds '(c'")


def test_check_folder__says_only_what_is_wrong_with_its_one_file(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(b"\xff\n")
    assert _problems(tmp_path) == ["a.jsonl:1: not UTF-8 (invalid start byte); convert the file to UTF-8"]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("gone")])
def test_check_folder__does_not_wait_for_what_is_no_folder(tmp_path: Path, make):
    make(tmp_path / "data")
    with pytest.raises(ConfigError, match="data: a (pipe|link)"):
        list(check_folder(tmp_path / "data"))


def test_check_folder__reads_compressed_tags(tmp_path: Path):
    (tmp_path / "a.conll.gz").write_bytes(gzip.compress("\ufeffOslo\tB-LOC\n".encode()))
    (report,) = check_folder(tmp_path)
    assert (report.kind, report.records, report.problems) == ("tags", 1, [])
