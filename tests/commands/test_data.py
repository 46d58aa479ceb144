"""`rlm data` as its user calls it."""

from pathlib import Path

import pytest

from rlm.cli import main
from rlm.data import hub

GOOD = '{"question": "q", "answers": ["a"]}\n'


def test_check__prints_a_line_for_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.jsonl").write_text(GOOD * 2)
    (tmp_path / "notes.txt").write_text("x")
    assert main(["data", "check", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"OK           {tmp_path}/a.jsonl: 2 questions",
        f"not checked  {tmp_path}/notes.txt",
    ]


def test_check__fails_when_a_file_has_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.jsonl").write_text(GOOD + '{"question": "q"}\n')
    assert main(["data", "check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"{tmp_path}/a.jsonl:2: no `answers`; the record has: question" in out
    assert "OK" not in out


def test_fetch__prints_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def fetch(dataset, out, limit, progress):
        progress("nq_open.dev", 3)
        return [out / f"{dataset}.{limit}"]

    monkeypatch.setattr(hub, "fetch", fetch)
    assert main(["data", "fetch", "nq_open", "--out", str(tmp_path), "--limit", "3"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/nq_open.3\n"
