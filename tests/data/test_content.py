"""Digests of what is read from outside the store."""

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest

from rlm.data import content
from rlm.data.config import (
    CorpusConfig,
    EncyclopediaSource,
    FilesSource,
    HubSource,
    PretrainedTokenizer,
    RulesTagger,
    SpacyTagger,
    TokenClassificationTagger,
)
from rlm.data.content import content_digest, file_sha256, files_read
from rlm.data.parallel_config import AlignedSource, ParallelConfig
from rlm.errors import ConfigError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    content._sha256_of.cache_clear()
    return folder


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _old(path: Path) -> Path:
    """As if it had been written long before: its time of change cannot be set, so the clock is."""
    os.utime(path, (1e9, 1e9))
    return path


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**10)


def test_content_digest__follows_the_bytes_and_their_order(tmp_path: Path):
    a, b = _write(tmp_path / "a.jsonl", "one"), _write(tmp_path / "b.jsonl", "two")
    expected = "\n".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in (a, b))
    both = FilesSource(files=("a.jsonl", "b.jsonl"))
    assert content_digest(both, tmp_path) == hashlib.sha256(expected.encode()).hexdigest()
    assert content_digest(FilesSource(files=("b.jsonl", "a.jsonl")), tmp_path) != content_digest(both, tmp_path)
    before = content_digest(both, tmp_path)
    b.touch()
    assert content_digest(both, tmp_path) == before
    _write(b, "six")  # as many bytes
    assert content_digest(both, tmp_path) != before


def test_content_digest__of_a_checkpoint_follows_its_weights(tmp_path: Path):
    named = PretrainedTokenizer(name=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = content_digest(named, None)
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert content_digest(named, None) != before != ""
    assert content_digest(PretrainedTokenizer(name="google-bert/bert-base-uncased"), None) == ""


def test_content_digest__reads_unchanged_files_once(
    tmp_path: Path, own_cache: Path, later: None, monkeypatch: pytest.MonkeyPatch
):
    _old(_write(tmp_path / "a.jsonl", "one"))
    source = FilesSource(files=("a.jsonl",))
    before = content_digest(source, tmp_path)
    content._sha256_of.cache_clear()  # as in the next process
    with monkeypatch.context() as patched:
        patched.setattr(hashlib, "file_digest", None)
        assert content_digest(source, tmp_path) == before
    _write(tmp_path / "a.jsonl", "two")
    assert content_digest(source, tmp_path) != before


@pytest.mark.parametrize("damage", ["", "[1]", '{"x": 3}', "[" * 100_000, "\0"])
def test_content_digest__survives_a_damaged_memory(tmp_path: Path, own_cache: Path, later: None, damage: str):
    _old(_write(tmp_path / "a.jsonl", "one"))
    source = FilesSource(files=("a.jsonl",))
    before = content_digest(source, tmp_path)
    (own_cache / "rlm" / "digests.json").write_text(damage)
    content._sha256_of.cache_clear()
    assert content_digest(source, tmp_path) == before


def test_content_digest__needs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    _old(_write(tmp_path / "a.jsonl", "one"))
    assert len(content_digest(FilesSource(files=("a.jsonl",)), tmp_path)) == 64


def test_content_digest__does_not_keep_a_file_that_may_still_change(tmp_path: Path, own_cache: Path):
    _write(tmp_path / "a.jsonl", "one")
    content_digest(FilesSource(files=("a.jsonl",)), tmp_path)
    assert not (own_cache / "rlm" / "digests.json").exists()


def test_content_digest__covers_what_a_tagger_reads(tmp_path: Path):
    model, train = tmp_path / "model", tmp_path / "ner" / "train.conll"
    for path, text in ((model / "config.json", "{}"), (model / "model.safetensors", "weights"), (train, "a\tO\n")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    digests = [content_digest(TokenClassificationTagger(name="org/model", revision="abc"), tmp_path)]
    tagger = TokenClassificationTagger(name=str(model), train_files=("ner/train.conll",))
    digests.append(content_digest(tagger, tmp_path))
    (model / "model.safetensors").write_text("others!")
    digests.append(content_digest(tagger, tmp_path))
    train.write_text("a\tB-PER\n")
    digests.append(content_digest(tagger, tmp_path))
    assert digests[0] == "abc"
    assert len(set(digests)) == 4


@pytest.mark.parametrize("source", [EncyclopediaSource(), RulesTagger(), SpacyTagger()])
def test_content_digest__is_empty_where_no_file_is_read(source: object):
    assert content_digest(source, None) == ""


def test_content_digest__is_the_revision_of_a_hubs_data_set():
    assert content_digest(HubSource(dataset="a/b", revision="abc"), None) == "abc"


def test_content_digest__raises_when_a_file_is_missing(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such file"):
        content_digest(FilesSource(files=("a.jsonl",)), tmp_path)
    with pytest.raises(ConfigError, match="--data FOLDER"):
        content_digest(TokenClassificationTagger(name="org/model", train_files=("ner/train.conll",)), None)


def test_content_digest__of_a_spacy_pipeline_in_a_folder(tmp_path: Path):
    _write(tmp_path / "pipeline" / "ner" / "model", "one")
    tagger = SpacyTagger(pipeline=str(tmp_path / "pipeline"))
    before = content_digest(tagger, None)
    _write(tmp_path / "pipeline" / "ner" / "model", "two")
    assert content_digest(tagger, None) != before != ""


def test_file_sha256__of_a_file_put_in_place_of_one_of_the_same_size_and_time(tmp_path: Path, later: None):
    first, second = _old(_write(tmp_path / "a.jsonl", "one")), _old(_write(tmp_path / "b.jsonl", "two"))
    before = file_sha256(first)
    shutil.copy2(second, first)
    content._sha256_of.cache_clear()
    assert file_sha256(first) == hashlib.sha256(b"two").hexdigest() != before


def test_files_read__finds_what_is_named_anywhere(tmp_path: Path):
    for name in ("wiki/a.jsonl", "wiki/b.jsonl", "mt/de", "mt/en", "ner/train.conll", "bert/config.json"):
        _write(tmp_path / name, name)
    config = {
        "corpus": CorpusConfig(source=FilesSource(files=("wiki/*.jsonl",))),
        "pairs": {"law": ParallelConfig(source=AlignedSource(source_file="mt/de", target_file="mt/en"))},
        "taggers": (TokenClassificationTagger(name="a/b", train_files=("ner/train.conll",)), RulesTagger()),
        "tokenizer": PretrainedTokenizer(name=str(tmp_path / "bert")),
        "hub": [HubSource(dataset="a/b", name=str(tmp_path / "bert"), revision="abc"), EncyclopediaSource(), 3, None],
    }
    found = [Path(path).relative_to(tmp_path).as_posix() for path in files_read(config, tmp_path)]
    assert found == ["wiki/a.jsonl", "wiki/b.jsonl", "mt/de", "mt/en", "ner/train.conll", "bert/config.json"]


def test_file_sha256__when_it_cannot_be_read(tmp_path: Path):
    with pytest.raises(ConfigError, match="a.jsonl: cannot be read"):
        file_sha256(tmp_path / "a.jsonl")
