"""The stage that writes one data set's splits."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlm.config import Runtime
from rlm.data.config import EncyclopediaSource, FilesSource, HubSource, QuestionsConfig
from rlm.data.qa import Question, read_questions
from rlm.errors import ConfigError
from rlm.stages.questions import run


def _run(folder: Path, data: Path | None, source, **limits: int) -> dict[str, float]:
    out = folder / "out"
    out.mkdir()
    return run(QuestionsConfig(source=source, **limits), {}, out, SimpleNamespace(runtime=Runtime(data=data)))


def _files(folder: Path) -> FilesSource:
    for split, n in (("train", 5), ("dev", 3), ("test", 2)):
        rows = [
            {"id": f"{split}{i}", "question": f"{split} {i}?", "answers": ["1\\d"], "answer_type": "regex"}
            for i in range(n)
        ]
        (folder / f"a.{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FilesSource(files=("a.train.jsonl", "a.dev.jsonl", "a.test.jsonl"))


def test_run__writes_the_first_questions_of_each_split(tmp_path: Path):
    assert _run(tmp_path, tmp_path, _files(tmp_path), train_limit=4, test_limit=1) == {"train": 4, "dev": 3, "test": 1}
    assert read_questions(tmp_path / "out" / "test.jsonl") == [Question("test0", "test 0?", ("1\\d",), "regex")]
    assert [question.id for question in read_questions(tmp_path / "out" / "train.jsonl")] == [
        f"train{i}" for i in range(4)
    ]


def test_run__applies_the_limit_of_the_source_to_each_split(tmp_path: Path):
    source = FilesSource(files=_files(tmp_path).files, limit=2)
    assert _run(tmp_path, tmp_path, source) == {"train": 2, "dev": 2, "test": 2}


@pytest.mark.parametrize("files", [("a.train.jsonl", "a.dev.jsonl"), ("a.*.jsonl", "b.jsonl")])
def test_run__wants_three_files(tmp_path: Path, files: tuple[str, ...]):
    _files(tmp_path)
    (tmp_path / "b.jsonl").touch()
    with pytest.raises(ConfigError, match="write exactly three, in the order train, dev, test"):
        _run(tmp_path, tmp_path, FilesSource(files=files))


def test_run__takes_the_splits_of_the_encyclopedia(tmp_path: Path):
    counts = _run(tmp_path, None, EncyclopediaSource(entities=60), train_limit=10)
    splits = {split: read_questions(tmp_path / "out" / f"{split}.jsonl") for split in ("train", "dev", "test")}
    assert counts == {split: len(questions) for split, questions in splits.items()}
    assert counts["train"] == 10
    assert not {q.question for q in splits["train"]} & {q.question for q in splits["test"]}


def test_run__takes_the_splits_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = HubSource(dataset="org/set", revision="abc")
    splits = {split: [Question("1", f"{split}?", ("a",))] * 2 for split in ("train", "dev", "test")}
    monkeypatch.setattr("rlm.data.hub.hub_questions", lambda given: splits if given is source else None)
    assert _run(tmp_path, None, source, dev_limit=1) == {"train": 2, "dev": 1, "test": 2}


def test_run__refuses_an_empty_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rlm.data.hub.hub_questions", lambda source: {split: [] for split in ("train", "dev", "test")})
    with pytest.raises(ConfigError, match=r"the train split of .*org/set.* holds no question"):
        _run(tmp_path, None, HubSource(dataset="org/set", revision="abc"))


def test_run__tells_of_a_pattern_that_matches_nothing_and_keeps_its_question(tmp_path: Path):
    source = _files(tmp_path)
    row = {"id": "x", "question": "which?", "answers": ["(a", "b"], "answer_type": "regex"}
    (tmp_path / "a.dev.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.warns(UserWarning, match=r"a\.dev\.jsonl:1: `answers` holds '\(a', no regular expression") as caught:
        assert _run(tmp_path, tmp_path, source)["dev"] == 1
    assert len(caught) == 1
