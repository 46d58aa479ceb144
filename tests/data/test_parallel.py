"""Pairs of sentences from files, and the tokens they are kept as."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from rlm.data.config import FilesSource, PretrainedTokenizer
from rlm.data.parallel import ParallelText, make_pair_tokenizer, read_pairs, write_pairs
from rlm.data.parallel_config import AlignedSource, ParallelConfig, PhrasebookSource, TrainedPairTokenizer
from rlm.data.phrasebook import Pair, pairs
from rlm.errors import ConfigError

ROWS = [{"id": "a", "de": "Ein Hund.", "en": "A dog."}, {"id": "b", "de": "Zwei Männer.", "en": "Two men."}]


def records(path: Path, rows: list[dict]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def of_records(**settings) -> ParallelConfig:
    return ParallelConfig(
        source=FilesSource(files=("pairs.jsonl.gz",)), source_field="de", target_field="en", **settings
    )


def test_read_pairs__of_records_takes_either_direction(tmp_path: Path) -> None:
    records(tmp_path / "pairs.jsonl.gz", ROWS)
    assert list(read_pairs(of_records(), tmp_path)) == [
        Pair(**{"id": r["id"], "source": r["de"], "target": r["en"]}) for r in ROWS
    ]
    other = ParallelConfig(source=FilesSource(files=("pairs.jsonl.gz",)), source_field="en", target_field="de")
    assert next(read_pairs(other, tmp_path)) == ("a", "A dog.", "Ein Hund.")
    assert next(read_pairs(of_records(prefix="translate: "), tmp_path)).source == "translate: Ein Hund."


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"id": "c", "de": "Drei."}, "pairs.jsonl.gz:3: no `en`, or an empty one; the record has: id, de"),
        ({"id": "c", "de": " ", "en": "Three."}, "pairs.jsonl.gz:3: no `de`, or an empty one"),
        ({"id": "a", "de": "Drei.", "en": "Three."}, "two pairs have the id 'a'"),
    ],
)
def test_read_pairs__when_a_record_cannot_be_used(tmp_path: Path, row: dict, expected: str) -> None:
    records(tmp_path / "pairs.jsonl.gz", [*ROWS, row])
    with pytest.raises(ConfigError, match=expected.replace("(", r"\(")):
        list(read_pairs(of_records(), tmp_path))


def aligned(folder: Path, source: str, target: str) -> list[Pair]:
    (folder / "x.de").write_text(source)
    (folder / "x.en").write_text(target)
    return list(read_pairs(ParallelConfig(source=AlignedSource(source_file="x.de", target_file="x.en")), folder))


def test_read_pairs__of_aligned_files_joins_lines_of_a_number(tmp_path: Path) -> None:
    assert aligned(tmp_path, "eins\n\nzwei\n", "one\n\ntwo\n") == [("x.de:1", "eins", "one"), ("x.de:3", "zwei", "two")]


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("eins\nzwei\n", "one\n", r"x\.de:2: no counterpart in x\.en \(the file ends before it\)"),
        ("eins\nzwei\n", "one\n\n", r"x\.de:2: no counterpart in x\.en \(the line is empty\)"),
        ("eins\n", "one\ntwo\n", r"x\.en:2: no counterpart in x\.de \(the file ends before it\)"),
        ("", "", r"x\.de, x\.en: holds no pair of sentences"),
    ],
)
def test_read_pairs__when_a_line_has_no_counterpart(tmp_path: Path, source: str, target: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        aligned(tmp_path, source, target)


def test_read_pairs__up_to_a_limit_names_mistakes_before_it(tmp_path: Path) -> None:
    (tmp_path / "x.de").write_text("eins\nzwei\ndrei\nvier\n")
    source = AlignedSource(source_file="x.de", target_file="x.en", limit=2)
    (tmp_path / "x.en").write_text("one\n\nthree\nfour\n")
    with pytest.raises(ConfigError, match=r"x\.de:2: no counterpart in x\.en"):
        list(read_pairs(ParallelConfig(source=source), tmp_path))
    (tmp_path / "x.en").write_text("one\ntwo\n\nfour\n")
    assert [pair.target for pair in read_pairs(ParallelConfig(source=source), tmp_path)] == ["one", "two"]


def test_read_pairs__keeps_smaller_fractions_inside_larger_ones_and_parts_apart() -> None:
    book = PhrasebookSource(sentences=400)

    def ids(**settings) -> set[str]:
        return {pair.id for pair in read_pairs(ParallelConfig(source=book, **settings), None)}

    tenth, half = ids(fraction=0.1), ids(fraction=0.5)
    assert tenth < half < ids() and 20 < len(tenth) < 60 and 160 < len(half) < 240
    assert not ids(part=(0.0, 0.5)) & ids(part=(0.5, 1.0))
    assert ids(part=(0.0, 0.5)) | ids(part=(0.5, 1.0)) == ids()


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, list[Pair]]:
    folder = tmp_path_factory.mktemp("pairs")
    found = [Pair("ü", "Ein größerer Hund!", "A bigger dog …"), *pairs(PhrasebookSource(sentences=300, words=60))]
    tokenizer = make_pair_tokenizer(TrainedPairTokenizer(vocab_size=500), lambda: (t for p in found for t in p[1:]))
    counts = write_pairs(folder, found, tokenizer)
    text = ParallelText.open(folder)
    assert counts == {
        "pairs": 301,
        "source_tokens": len(text.source.values),
        "target_tokens": len(text.target.values),
    }
    return folder, found


def test_write_pairs__keeps_text_and_tokens(written) -> None:
    folder, found = written
    text = ParallelText.open(folder)
    assert text.pairs == found
    for number in (0, 7, 300):
        for side, rows in (("source", text.source), ("target", text.target)):
            tokens = rows[number].tolist()
            assert tokens[-1] == text.tokenizer.eos_token_id and text.pad not in tokens
            shown = text.tokenizer.decode(tokens, skip_special_tokens=True)
            assert shown.strip() == getattr(found[number], side)


def test_make_pair_tokenizer__gives_the_same_each_time(written) -> None:
    _, found = written
    vocabularies = [
        make_pair_tokenizer(TrainedPairTokenizer(vocab_size=400), lambda: (t for p in found for t in p[1:])).get_vocab()
        for _ in range(2)
    ]
    assert vocabularies[0] == vocabularies[1]


def test_make_pair_tokenizer__when_there_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.name: `.*nothing` gives no tokenizer"):
        make_pair_tokenizer(PretrainedTokenizer(name=str(tmp_path / "nothing")), list)


def test_open__when_damaged(written, tmp_path: Path) -> None:
    folder, _ = written
    with pytest.raises(ValueError, match="no pairs of sentences, or damaged ones"):
        ParallelText.open(tmp_path)
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    np.save(tmp_path / "source.offsets.npy", np.load(folder / "source.offsets.npy")[:-1])
    with pytest.raises(ValueError, match="damaged"):
        ParallelText.open(tmp_path)


def test_write_pairs__when_none_is_left(tmp_path: Path) -> None:
    tokenizer = make_pair_tokenizer(TrainedPairTokenizer(vocab_size=300), lambda: ["a b"])
    with pytest.raises(ValueError, match="no pair is left"):
        write_pairs(tmp_path, [], tokenizer)
