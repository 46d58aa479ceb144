from pathlib import Path
from typing import Any

import pytest

from rlm.build import build, build_plain
from rlm.config import identity
from rlm.errors import ConfigError
from rlm.limits import Between, Line, Name, Pattern, Seeds, harmful, shown
from rlm.stages.models import MODELS
from rlm.table import load_table
from rlm.yaml_file import Document


def _mistakes(hint: Any, value: Any) -> list[str]:
    errors: list[str] = []
    build_plain(hint, Document(value, {(): "t.yaml:3"}), errors, "field")
    return errors


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (Seeds, [0, 4294967295], ""),
        (Seeds, [0, -1], "found -1; write whole numbers from 0 to 4294967295"),
        (Seeds, [4294967296], "found 4294967296; write whole numbers from 0 to 4294967295"),
        (Seeds, [0, 1, 0], "0 is given twice; keep one"),
        (int, 2**63 - 1, ""),
        (int, 2**63, "found 9223372036854775808; write a smaller whole number"),
        (tuple[int, ...], [1, -(2**70)], "found -1180591620717411303424; write a smaller whole number"),
        (float, float("inf"), "found `Infinity` (number); write a number"),
        (float, float("nan"), "found `NaN` (number); write a number"),
        (Line, "a\nb", "found `a\\nb` with the character U+000A; write it in one line"),
        (Line, "a\u202eb", "with the character U+202E"),
        (Line, "", ""),
        (Name, "", "found ``; write a name"),
        (Name, "a\0b", "it holds the character U+0000"),
        (Name, "x" * 256, "its parts have at most 255 bytes"),
        (Name, "org/model-v1.0", ""),
        (Name, "~nobody-of-this-name/x", "there is no such home"),
        (Pattern, "wiki/**/*.jsonl.gz", ""),
        (Pattern, "", "found ``; write a name"),
        (Pattern, ".", "write a file, or a pattern of some, relative to the data folder"),
        (Pattern, "/etc/passwd", "write a file, or a pattern of some, relative to the data folder"),
        (Pattern, "a**", "write a file, or a pattern of some, relative to the data folder"),
    ],
)
def test_limits__when_a_value_is_read(hint: Any, value: Any, message: str) -> None:
    found = _mistakes(hint, value)
    if not message:
        assert found == []
    else:
        (line,) = found
        assert line.startswith("t.yaml:3: field: ")
        assert message in line


@pytest.mark.parametrize(
    ("limit", "right", "wrong", "message"),
    [
        (Between(least=1), 1, 0, "found 0; write at least 1"),
        (Between(above=0), 1e-300, 0.0, "found 0.0; write a number above 0"),
        (Between(least=0, below=1), 0.0, 1.0, "found 1.0; write at least 0, below 1"),
        (Between(above=0, most=1), 1.0, float("nan"), "found nan; write a number above 0, at most 1"),
    ],
)
def test_between__has_its_ends_or_not(limit: Between, right: float, wrong: float, message: str) -> None:
    assert limit.mistake(right) is None
    assert limit.mistake(wrong) == message


def test_shown__is_one_short_line() -> None:
    assert shown("a\x1b[31m\n\udce9\u202e") == "a\\x1b[31m\\n\\udce9\\u202e"
    assert shown("x" * 100, 10) == "xxxxxxx..."
    assert shown("é中\u200d") == "é中\u200d", "what is only not ASCII stays"


def test_harmful__names_what_is_no_character() -> None:
    assert harmful("a\U0001ffff") == "U+1FFFF"
    assert harmful("naïve – 中 \U0001f600") is None


# A field that no stage can use, in a table of its model.
FIELDS = {
    "realm_table2": {
        "corpus.source.entities=0": "corpus.source.entities: found 0; write at least 1",
        "corpus.source.world_seed=-1": "corpus.source.world_seed: found -1; write whole numbers from 0 to 4294967295",
        "tokenizer.vocab_size=0": "tokenizer.vocab_size: found 0",
        "tokenizer.vocab_size=1000000000000": "tokenizer.vocab_size: found 1000000000000",
        "questions.encyclopedia.dev_limit=-1": "questions.encyclopedia.dev_limit: found -1",
        "encoder.heads=0": "encoder.heads: found 0",
        "encoder.layers=-1": "encoder.layers: found -1",
        "encoder.max_positions=0": "encoder.max_positions: found 0",
        "encoder.dropout=1.0": "encoder.dropout: found 1.0; write at least 0, below 1",
        "retriever.projection=0": "retriever.projection: found 0",
        "retriever.scale=0": "retriever.scale: found 0.0; write a number above 0",
        "retriever.query_tokens=2": "retriever.query_tokens: found 2; write at least 3",
        "ict.keep_sentence=1.5": "ict.keep_sentence: found 1.5; write at least 0, at most 1",
        "ict.training.warmup_steps=-1": "ict.training.warmup_steps: found -1",
        "ict.training.weight_decay=-0.1": "ict.training.weight_decay: found -0.1",
        "pretrain.training.steps=9223372036854775808": "pretrain.training.steps: found 9223372036854775808; write a smaller",
        "pretrain.masking={kind: uniform_tokens, rate: 0}": "pretrain.masking.rate: found 0",
        "pretrain.masking={kind: random_spans, p: 0.0}": "pretrain.masking.p: found 0.0; write a number above 0, at most 1",
        "pretrain.masking={kind: random_spans, max_span: 0}": "pretrain.masking.max_span: found 0",
        "pretrain.max_masks=0": "pretrain.max_masks: found 0",
        "pretrain.index_refresh.agreement_below=2": "pretrain.index_refresh.agreement_below: found 2.0",
        "finetune.max_span=0": "finetune.max_span: found 0",
        "evaluate.recall_at=[5, 5]": "evaluate.recall_at: 5 is given twice; keep one",
        "index={kind: ivf_pq, probes: 0}": "index.probes: found 0; write at least 1",
        "index={kind: hnsw, neighbours: 1}": "index.neighbours: found 1; write at least 2",
        "corpus.source={kind: files, files: []}": "corpus.source.files: found []; write at least one file or pattern",
        "corpus.source={kind: files, files: [a, a]}": "corpus.source.files: a is given twice; keep one",
        "corpus.source={kind: files, files: [a], limit: 0}": "corpus.source.limit: found 0",
        "corpus.source={kind: hub, dataset: a, revision: ''}": "corpus.source.revision: found ``; write a name",
        "corpus.source={kind: [files]}": "corpus.source.kind: found `[\"files\"]` (list); did you mean `files`?",
        "questions={nq_open: {source: {kind: files, files: [a, b]}}}": "questions.nq_open.source.files: found 2; write exactly",
        "salient_spans={kind: token_classification, name: x, train_files: [a]}": "salient_spans.train_files: found one;",
        "salient_spans={kind: token_classification, name: x, batch_size: 0}": "salient_spans.batch_size: found 0",
        "encoder={kind: pretrained, name: ''}": "encoder.name: found ``; write a name",
    },
    "retro_neighbours": {
        "chunks.index={kind: ivf_pq, lists: 0}": "chunks.index.lists: found 0",
        "chunks.index={kind: bm25, b: 1.5}": "chunks.index.b: found 1.5",
        "chunks.encoder.encoder={kind: scratch, hidden_size: 30, heads: 4}": "chunks.encoder.encoder.hidden_size: 30 is no multiple of 4 heads",
        "model.chunk_tokens=0": "model.chunk_tokens: found 0",
        "model.initial_std=-1": "model.initial_std: found -1",
        "train.fit=1e300": "train.fit: found 1e+300; write a number at most 1000",
    },
    "knn_mt": {
        "training=[captions, captions]": "training: captions is given twice; keep one",
        "model.dropout=1.0": "model.dropout: found 1.0",
        "model.max_positions=0": "model.max_positions: found 0",
        "domains.captions.train.source={kind: aligned, source_file: '', target_file: b}": "source_file: found ``; write a name",
        "domains.captions.train.source={kind: phrasebook, words: 2}": "source.words: found 2; write at least 3",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("table", "setting"), [(table, setting) for table, found in FIELDS.items() for setting in found]
)
def test_load_table__when_no_stage_can_use_a_field(root: Path, table: str, setting: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_table(root / "experiments" / f"{table}.yaml", "tiny", settings=[setting])
    assert FIELDS[table][setting] in str(raised.value)
    assert f"--set {setting.partition('=')[0]}" in str(raised.value), "the place is told"


def test_build__reads_back_what_tables_hold(root: Path) -> None:
    """A worker builds the configuration of a stage again: no limit may refuse what a plan made."""
    from rlm.config import to_plain

    for path in (root / "experiments").glob("*.yaml"):
        for scale in ("tiny", "small"):
            table = load_table(path, scale)
            for row in table.rows.values():
                kind = MODELS[table.model].experiment
                again = build(kind, Document(to_plain(row)))
                assert identity(again) == identity(row)
