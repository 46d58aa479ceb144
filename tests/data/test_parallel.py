"""Pairs of sentences from files, and the tokens they are kept as."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from transformers import NllbTokenizer

from rlm.data.config import FilesSource
from rlm.data.parallel import ParallelText, make_pair_tokenizer, read_pairs, write_pairs
from rlm.data.parallel_config import (
    AlignedSource,
    ParallelConfig,
    PhrasebookSource,
    PretrainedPairTokenizer,
    TrainedPairTokenizer,
)
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
        ({"id": "a", "de": "Drei.", "en": "Three."}, "pairs.jsonl.gz:3: two .*pairs.jsonl.gz:1; give each"),
        ({"id": True, "de": "Drei.", "en": "Three."}, "pairs.jsonl.gz:3: `id` is True; write text or a whole number"),
        ({"id": "c", "de": 3, "en": "Three."}, "pairs.jsonl.gz:3: `de` is 3; write text"),
        ({"id": "c", "de": "Drei.", "en": ["Three."]}, r"pairs.jsonl.gz:3: `en` is \['Three.'\]; write text"),
        ({"id": "c", "de": "Drei.", "en": "\ud83d"}, "pairs.jsonl.gz:3: `en` holds half of a character"),
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


@pytest.mark.parametrize("damaged", ["x.de", "x.en"])
@pytest.mark.parametrize(
    "content",
    [b"eins\nz\xffei\n", gzip.compress(b"eins\n" * 9999, mtime=0)[:-20], b"PK\x03\x04"],
    ids=["text", "gzip", "zip"],
)
def test_read_pairs__names_the_aligned_file_that_cannot_be_read(tmp_path: Path, damaged: str, content: bytes) -> None:
    for name in ("x.de", "x.en"):
        (tmp_path / name).write_bytes(content if name == damaged else b"eins\n" * 9999)
    source = AlignedSource(source_file="x.de", target_file="x.en")
    with pytest.raises(ConfigError, match=rf"{damaged}(:2: not UTF-8|: cannot be read)"):
        list(read_pairs(ParallelConfig(source=source), tmp_path))


def test_read_pairs__of_several_files_names_both_places_of_an_id(tmp_path: Path) -> None:
    for name in ("a", "b"):
        records(tmp_path / f"{name}.jsonl.gz", ROWS[:1])
    source = FilesSource(files=("*.jsonl.gz",))
    with pytest.raises(ConfigError, match=r"b\.jsonl\.gz:1: two pairs have the id 'a', this and .*a\.jsonl\.gz:1"):
        list(read_pairs(ParallelConfig(source=source, source_field="de", target_field="en"), tmp_path))


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
    counts = write_pairs(folder, [(found, None)], tokenizer)
    text = ParallelText.open(folder)
    assert counts == {
        "pairs": 301,
        "left_out": 0,
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
        make_pair_tokenizer(PretrainedPairTokenizer(name=str(tmp_path / "nothing")), list)


def nllb(folder: Path) -> Path:
    """A tokenizer of many languages, as NLLB's."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "\u2581ein", "\u2581hund", "\u2581a", "\u2581dog", "\u2581", *"eihundaog"]
    vocabulary = {word: number for number, word in enumerate(words)}
    joined = (word for word in words if len(word) > 2 and word[0] == "\u2581")
    merges = list({(word[:n], word[n]) for word in joined for n in range(1, len(word))})
    vocabulary |= {a + b: vocabulary.get(a + b, len(vocabulary) + n) for n, (a, b) in enumerate(merges)}
    NllbTokenizer(vocab=vocabulary, merges=sorted(merges)).save_pretrained(folder)
    return folder


def test_write_pairs__of_many_languages_begins_translations_with_their_language(tmp_path: Path) -> None:
    named = PretrainedPairTokenizer(
        name=str(nllb(tmp_path / "nllb")), source_language="deu_Latn", target_language="eng_Latn"
    )
    tokenizer = make_pair_tokenizer(named, list)
    write_pairs(tmp_path, [([Pair("1", "ein hund", "a dog")], None)], tokenizer)
    text, codes = ParallelText.open(tmp_path), tokenizer.convert_tokens_to_ids
    assert (text.source[0][0], text.target[0][0], text.first) == (codes("deu_Latn"), *(2 * [codes("eng_Latn")]))
    assert text.tokenizer.decode(text.target[0].tolist(), skip_special_tokens=True).strip() == "a dog"


@pytest.mark.parametrize(
    ("languages", "expected"),
    [
        ({}, "has many languages; write `source_language` and `target_language`"),
        ({"source_language": "deu_Latn", "target_language": "english"}, "has no language deu_Latn or english"),
        ({"source_language": "german", "target_language": "eng_Latn"}, "has no language german or eng_Latn"),
    ],
)
def test_make_pair_tokenizer__when_a_language_is_not_named(tmp_path: Path, languages: dict, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        make_pair_tokenizer(PretrainedPairTokenizer(name=str(nllb(tmp_path)), **languages), list)


def test_make_pair_tokenizer__when_there_are_no_languages(written) -> None:
    folder, _ = written
    named = PretrainedPairTokenizer(name=str(folder / "tokenizer"), target_language="eng_Latn")
    with pytest.raises(ConfigError, match="has no languages to choose from; leave them out"):
        make_pair_tokenizer(named, list)


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


def test_write_pairs__leaves_out_what_is_too_long_where_it_is_asked_to(tmp_path: Path) -> None:
    tokenizer = make_pair_tokenizer(TrainedPairTokenizer(vocab_size=300), lambda: ["a b"])
    some = [Pair("short", "a", "a"), Pair("long source", "a " * 9, "a"), Pair("long target", "a", "a " * 9)]
    lengths = [len(tokenizer(pair.source)["input_ids"]) for pair in some]
    others = [Pair("also long", "a " * 9, "b")]
    counts = write_pairs(tmp_path, [(some, lengths[1] - 1), (others, lengths[1])], tokenizer, lengths[1])
    assert [pair.id for pair in ParallelText.open(tmp_path).pairs] == ["short", "also long"]
    assert (counts["pairs"], counts["left_out"]) == (2, 2)
    assert counts["source_tokens"] == lengths[0] + lengths[1]


def test_write_pairs__when_the_model_reads_less(tmp_path: Path) -> None:
    tokenizer = make_pair_tokenizer(TrainedPairTokenizer(vocab_size=300), lambda: ["a b"])
    some = [Pair("short", "a", "a"), Pair("long", "a " * 9, "a"), Pair("longest", "a", "a " * 20)]
    length = len(tokenizer(some[2].target)["input_ids"])
    expected = f"2 pairs are longer than the 5 tokens that the model reads, the longest 'longest' with {length}; leave"
    with pytest.raises(ConfigError, match=f"{expected} them out with `longest: 5`"):
        write_pairs(tmp_path, [(some, None)], tokenizer, 5)
