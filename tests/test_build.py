from pathlib import Path

import pytest

from rlm.build import build
from rlm.config import Runtime, to_plain
from rlm.data.config import CorpusConfig, FilesSource
from rlm.errors import ConfigError
from rlm.models.config import PretrainConfig, Training
from rlm.yaml_file import Document, parse_yaml


def _errors(kind: type, text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        build(kind, parse_yaml(text, "t.yaml"))
    return str(raised.value).splitlines()


def test_build__when_all_is_right() -> None:
    config = build(CorpusConfig, parse_yaml("source: {kind: files, files: [a, b]}\nmax_tokens: 64\n", "t.yaml"))
    assert config == CorpusConfig(source=FilesSource(files=("a", "b")), max_tokens=64)


def test_build__when_every_value_is_read_back() -> None:
    config = PretrainConfig(training=Training(steps=3, batch_size=2, learning_rate=1.0))
    assert build(PretrainConfig, Document(to_plain(config))) == config


def test_build__when_a_path_is_text() -> None:
    assert build(Runtime, Document({"store": "x"})).store == Path("x")


def test_build__when_there_are_many_mistakes_all_are_told() -> None:
    text = (
        "training:\n  steps: ten\n  batch_size: true\n  precision: bf1\n"
        "candidate: 3\nmasking: {kind: random_span}\nnull_passage: 1\nindex_refresh: 5\n"
    )
    assert _errors(PretrainConfig, text) == [
        "t.yaml:2: training.steps: found `ten` (text); write a whole number",
        "t.yaml:3: training.batch_size: found `true` (truth value); write a whole number",
        "t.yaml:4: training.precision: found `bf1` (text); did you mean `bf16`? Known: bf16, float32",
        "t.yaml:1: training: `learning_rate` is missing; write learning_rate: a number",
        "t.yaml:5: candidate: no such field of PretrainConfig; did you mean `candidates`? Known: candidates,"
        " exclude_source, index_refresh, keep_snapshots, marginal, masking, max_masks, null_passage, passage_tokens,"
        " query_tokens, training",
        "t.yaml:6: masking.kind: found `random_span` (text); did you mean `random_spans`? Known: random_spans,"
        " salient_spans, uniform_tokens",
        "t.yaml:7: null_passage: found `1` (number); write true or false",
        "t.yaml:8: index_refresh: found `5` (number); write a mapping with the fields of IndexRefresh",
    ]


def test_build__when_the_kind_is_missing() -> None:
    assert _errors(CorpusConfig, "source: {files: [a]}\n") == [
        "t.yaml:1: source: `kind` is missing; write kind: encyclopedia | files | hub"
    ]


def test_build__when_a_list_holds_another_type() -> None:
    assert _errors(CorpusConfig, "source: {kind: files, files: [1]}\n") == [
        "t.yaml:1: source.files: found `[1]` (list); write a list, each text"
    ]


def test_build__when_a_whole_number_stands_for_a_fraction() -> None:
    training = build(Training, Document({"steps": 1, "batch_size": 1, "learning_rate": 1}))
    assert training.learning_rate == 1.0
    assert isinstance(training.learning_rate, float)
