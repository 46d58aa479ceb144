"""Data sets of the hub, replaced by local files that the same library streams."""

import json
from pathlib import Path

import datasets
import pytest

from rlm.data import hub
from rlm.data.config import HubSource
from rlm.data.hub import blocks, fetch, hub_questions, orqa_dev
from rlm.data.qa import read_questions
from rlm.data.sources import Passage, read_passages
from rlm.errors import ConfigError

REAL = datasets.load_dataset


@pytest.fixture
def on_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`on_hub(train=rows, ...)` puts a data set where the hub would have it; returns the calls made."""
    calls = []

    def put(**splits: list[dict]) -> list:
        files = {}
        for split, rows in splits.items():
            path = tmp_path / f"{split}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            files[split] = str(path)

        def load(dataset, name=None, *, revision, streaming):
            calls.append((dataset, name, revision))
            return REAL("json", data_files=files, streaming=streaming, cache_dir=str(tmp_path / "cache"))

        monkeypatch.setattr(datasets, "load_dataset", load)
        return calls

    return put


def _questions(prefix: str, n: int) -> list[dict]:
    return [{"question": f"{prefix} {i}?", "answer": [f"a{i}"]} for i in range(n)]


SOURCE = HubSource(dataset="org/set", name="en", revision="c0ffee")


def test_read_passages__streams_the_train_split_at_the_revision(on_hub):
    calls = on_hub(train=[{"id": i, "url": "u", "title": f"T{i}", "text": f"x{i}"} for i in range(5)])
    limited = HubSource(dataset="org/set", name="en", revision="c0ffee", limit=2)
    assert list(read_passages(limited, None)) == [Passage("0", "T0", "x0"), Passage("1", "T1", "x1")]
    assert calls == [("org/set", "en", "c0ffee")]


def test_read_passages__names_a_record_that_cannot_be_used(on_hub):
    on_hub(train=[{"id": "a", "title": "t", "text": "x"}, {"id": "a", "title": "t", "text": " "}])
    with pytest.raises(ConfigError, match=r"org/set train, record 2: `text` is empty"):
        list(read_passages(SOURCE, None))


def test_read_passages__refuses_an_id_twice(on_hub):
    on_hub(train=[{"id": "a", "title": "t", "text": "x"}] * 2)
    with pytest.raises(ConfigError, match=r"record 2: `id` 'a' is also that of an earlier record"):
        list(read_passages(SOURCE, None))


def test_read_passages__names_the_splits_when_there_is_no_train(on_hub):
    on_hub(dev=[{"id": "a", "title": "t", "text": "x"}])
    with pytest.raises(ConfigError, match=r"no split `train` \(it has dev\).*kind: files"):
        list(read_passages(SOURCE, None))


@pytest.mark.parametrize("error", [ConnectionError("no route"), RuntimeError("gone")])
def test_read_passages__names_the_way_without_the_hub(error: Exception, monkeypatch: pytest.MonkeyPatch):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ConfigError, match=r"org/set at revision c0ffee: cannot be read.*rlm data fetch.*kind: files"):
        list(read_passages(SOURCE, None))


def test_hub_questions__takes_three_splits_as_they_are(on_hub):
    on_hub(train=_questions("t", 30), validation=_questions("v", 3), test=_questions("x", 2))
    splits = hub_questions(SOURCE)
    assert {name: len(questions) for name, questions in splits.items()} == {"train": 30, "dev": 3, "test": 2}
    assert splits["dev"][0].question == "v 0?"


@pytest.mark.parametrize("last", ["validation", "test"])
def test_hub_questions__holds_dev_out_of_train_when_a_split_is_missing(on_hub, last: str):
    on_hub(train=_questions("t", 60), **{last: _questions("x", 4)})
    splits = hub_questions(SOURCE)
    assert [question.question for question in splits["test"]] == [f"x {i}?" for i in range(4)]
    names = {split: {question.question for question in splits[split]} for split in ("train", "dev")}
    assert names["dev"] == {f"t {i}?" for i in range(60) if orqa_dev(f"t {i}?")}
    assert names["dev"] and not names["train"] & names["dev"]
    assert len(names["train"] | names["dev"]) == 60


def test_hub_questions__names_a_record_that_cannot_be_used(on_hub):
    on_hub(train=[{"question": "q", "answer": ["a"]}] * 2, validation=[{"question": "q", "answer": []}])
    with pytest.raises(ConfigError, match="org/set validation, record 1: `answers` is"):
        hub_questions(SOURCE)


def test_fetch__writes_questions_that_are_read_back(on_hub, tmp_path: Path):
    calls = on_hub(train=_questions("t", 40), validation=_questions("v", 3))
    shown = []
    files = fetch("nq_open", tmp_path / "data", None, lambda what, done: shown.append((what, done)))
    assert [path.relative_to(tmp_path / "data").as_posix() for path in files] == [
        "qa/nq_open.dev.jsonl",
        "qa/nq_open.test.jsonl",
        "qa/nq_open.train.jsonl",
    ]
    assert len(read_questions(files[0])) + len(read_questions(files[2])) == 40
    assert len(read_questions(files[1])) == 3
    assert ("nq_open.test", 3) in shown
    assert calls == [("google-research-datasets/nq_open", None, hub.PINNED["nq_open"].revision)]


def test_fetch__writes_shards_of_blocks(on_hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "SHARD_PASSAGES", 4)
    text = " ".join(f"Sentence number {i} has six words." for i in range(50))
    on_hub(train=[{"id": str(i), "url": "u", "title": f"T{i}", "text": text} for i in range(4)])
    files = fetch("wikipedia", tmp_path / "data", 2)
    assert [path.name for path in files] == ["passages-00.jsonl.gz", "passages-01.jsonl.gz"]
    from rlm.data.config import FilesSource

    read = list(read_passages(FilesSource(files=("wiki/*.jsonl.gz",)), tmp_path / "data"))
    assert [passage.id for passage in read] == ["0:0", "0:1", "0:2", "1:0", "1:1", "1:2"]
    assert " ".join(passage.text for passage in read[:3]) == text


def test_fetch__leaves_nothing_when_it_fails(on_hub, tmp_path: Path):
    on_hub(train=_questions("t", 5), validation=[{"question": "", "answer": ["a"]}])
    with pytest.raises(ConfigError):
        fetch("nq_open", tmp_path / "data", None)
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["qa"]


def test_fetch__does_not_overwrite(tmp_path: Path):
    (tmp_path / "qa").mkdir()
    (tmp_path / "qa" / "nq_open.dev.jsonl").touch()
    with pytest.raises(ConfigError, match=r"nq_open\.dev\.jsonl is there already; remove it"):
        fetch("nq_open", tmp_path, None)


def test_blocks__are_near_a_hundred_words_and_end_with_sentences():
    text = "History\n\n" + " ".join(f"Sentence {i} tells of {'very ' * (i % 7)}much." for i in range(120))
    cut = list(blocks(Passage("9", "T", text)))
    assert " ".join(block.text for block in cut) == " ".join(text.split())
    assert all(block.text.endswith("much.") for block in cut)
    assert all(90 <= len(block.text.split()) <= 110 for block in cut[:-1])
    assert [block.id for block in cut[:2]] == ["9:0", "9:1"]
    assert {block.title for block in cut} == {"T"}


def test_blocks__of_an_empty_article_are_none():
    assert list(blocks(Passage("9", "T", " \n "))) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "", "question": "q", "answer": ["a"]}, r"org/set train, record 2: `id` is ''; write text"),
        (
            {"id": "a", "question": "r", "answer": ["a"]},
            r"org/set train, record 2: `id` 'a' is also that of .*record 1",
        ),
        ({"id": "b", "question": "q", "answer": ['["a"]']}, "record 2: `answers` holds a list written as text"),
    ],
)
def test_hub_questions__are_checked_as_those_of_files(on_hub, row: dict, message: str):
    on_hub(train=[{"id": "a", "question": "q", "answer": ["a"]}, row], validation=_questions("v", 1))
    with pytest.raises(ConfigError, match=message):
        hub_questions(SOURCE)


def test_read_passages__refuses_ids_of_the_hub_that_are_no_text(on_hub):
    on_hub(train=[{"id": 1.5, "title": "t", "text": "x"}])
    with pytest.raises(ConfigError, match=r"org/set train, record 1: `id` is 1\.5; write text or a whole number"):
        list(read_passages(SOURCE, None))
