"""`rlm score` as its user calls it."""

from pathlib import Path

import pytest

from rlm.cli import main


def test_score__prints_the_score_and_the_patterns_that_match_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    predictions, answers = tmp_path / "predictions.jsonl", tmp_path / "answers.jsonl"
    predictions.write_text('{"id": "1", "prediction": "b"}\n')
    answers.write_text('{"id": "1", "question": "q", "answers": ["(a", "b"], "answer_kind": "regex"}\n')
    for _ in range(2):  # also a second time in one process
        assert main(["score", str(predictions), "--answers", str(answers)]) == 0
        first, second = capsys.readouterr().out.splitlines()
        assert first.startswith("exact match 100.00") and second.startswith(f"{answers}:1: `answers` holds '(a'")


def test_score__refuses_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.jsonl").write_bytes(b"\x28\xb5\x2f\xfd")
    assert main(["score", str(tmp_path / "a.jsonl"), "--answers", str(tmp_path / "a.jsonl")]) == 2
    assert "compressed with zstd" in capsys.readouterr().err
