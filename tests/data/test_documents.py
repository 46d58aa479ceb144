"""Documents read back against the tokenizer called by hand; joining, exclusion and shares against sets of ids."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from transformers import GPT2TokenizerFast

from rlm.data import document_records
from rlm.data.config import DocumentsConfig, EncyclopediaSource, FilesSource, TrainedByteTokenizer, TrainedTokenizer
from rlm.data.document_records import is_excluded, part_of, read_documents
from rlm.data.documents import Documents, start_token, write_documents
from rlm.data.encyclopedia import passages
from rlm.data.sources import Passage
from rlm.data.tokenizer import make_tokenizer, open_tokenizer
from rlm.errors import ConfigError

SOURCE = EncyclopediaSource(entities=60)
TEXTS = [passage.text for passage in passages(SOURCE)]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(TrainedTokenizer(vocab_size=400), lambda: TEXTS)


def files(folder: Path, name: str, records: Iterable[tuple[str, str, str]]) -> FilesSource:
    lines = (json.dumps(dict(zip(("id", "title", "text"), record, strict=True))) for record in records)
    (folder / name).write_text("\n".join(lines))
    return FilesSource(files=(name,))


def test_documents__reads_back_what_was_written(tokenizer, tmp_path: Path) -> None:
    written = [Passage(f"d{i}", f"Títle {i}", text + " é") for i, text in enumerate(TEXTS[:600])]
    summary = write_documents(tmp_path, iter(written), tokenizer)
    documents = Documents.open(tmp_path)
    assert len(documents) == len(written) == summary["documents"]
    for row, document in enumerate(written):
        expected = tokenizer(document.text, add_special_tokens=False)["input_ids"]
        assert documents.tokens[row].tolist() == [tokenizer.cls_token_id, *expected]
        assert (documents.id(row), documents.title(row)) == (document.id, document.title)
        assert documents.bytes[row] == len(document.text.encode()) > len(document.text)
    assert summary["bytes"] == documents.bytes.sum()
    assert summary["tokens"] == len(documents.tokens.values)
    assert documents.tokens.values.dtype == np.uint16
    again = pickle.loads(pickle.dumps(documents))
    assert again.tokens.values.tolist() == documents.tokens.values.tolist()


def test_documents__are_the_same_by_text_or_by_title(tokenizer, tmp_path: Path) -> None:
    rows = [
        ("a", "A", "one"),
        ("a", "A", "two"),
        ("b", "B", "one"),
        ("a", "B", "three"),
        ("c", "C", "four"),
        ("d", "", "five"),
        ("e", "", "six"),
        ("d", "", "seven"),
    ]
    write_documents(tmp_path, [Passage(*row) for row in rows], tokenizer)
    identity = Documents.open(tmp_path).identity
    same = [[bool((identity[i] == identity[j]).any()) for j in range(8)] for i in range(8)]
    expected = [[a[2] == b[2] or a[1] == b[1] != "" or a[:2] == b[:2] for b in rows] for a in rows]
    assert same == expected


def test_documents__refuses_a_truncated_file(tokenizer, tmp_path: Path) -> None:
    write_documents(tmp_path, [Passage("a", "", "one two"), Passage("b", "", "three")], tokenizer)
    for name in ("tokens.values.npy", "bytes.npy", "identity.npy", "documents.json"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-8])
        with pytest.raises(ValueError, match="damaged"):
            Documents.open(tmp_path)
        (tmp_path / name).write_bytes(whole)


def test_write_documents__refuses_a_document_without_tokens(tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="document 'b' has no tokens"):
        write_documents(tmp_path, [Passage("a", "", "x"), Passage("b", "", "\u200b")], tokenizer)
    with pytest.raises(ValueError, match="no document is left"):
        write_documents(tmp_path, [], tokenizer)


def test_start_token__when_the_tokenizer_is_gpt2s(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "<|endoftext|>": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    gpt2 = GPT2TokenizerFast(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert start_token(gpt2) == 2
    folder = tmp_path / "documents"
    folder.mkdir()
    write_documents(folder, [Passage("x", "", "abab")], gpt2)
    documents = Documents.open(folder)
    assert documents.tokens[0].tolist() == [2, 0, 1, 0, 1]
    assert documents.pad == 0


PROGRAM = """
import sys
from rlm.data.config import EncyclopediaSource, TrainedByteTokenizer
from rlm.data.encyclopedia import passages
from rlm.data.tokenizer import make_tokenizer, open_tokenizer
texts = [passage.text for passage in passages(EncyclopediaSource(entities=60))]
make_tokenizer(TrainedByteTokenizer(vocab_size=600), lambda: texts, needs=()).save_pretrained(sys.argv[1])
"""


def test_documents__of_bytes_give_the_raw_text_back(root: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": "."}
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / name)], cwd=root, env=environment, check=True)
    files_of = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files_of[0] == files_of[1]
    tokenizer = open_tokenizer(tmp_path / "one")
    odd = ["  Two  spaces,\nlines\t\u00e9\u4e2d\U0001f600 I.E. don't ", *TEXTS[:20]]
    folder = tmp_path / "documents"
    folder.mkdir()
    write_documents(folder, [Passage(str(i), "", text) for i, text in enumerate(odd)], tokenizer)
    documents = Documents.open(folder)
    for row, text in enumerate(odd):
        assert documents.tokenizer.decode(documents.tokens[row][1:].tolist()) == text
        assert documents.tokens[row][0] == documents.start == tokenizer.eos_token_id
    with pytest.raises(ConfigError, match="has no cls, sep, pad, mask"):
        make_tokenizer(TrainedByteTokenizer(vocab_size=300), lambda: TEXTS)


@pytest.mark.parametrize(
    ("identity", "document"),
    [
        ("enwiki15:12:19", ("enwiki15:12", 19)),
        ("mov:Clowns: a film:0", ("mov:Clowns: a film", 0)),
        ("12-3", ("12", 3)),
        ("nqgold:7", ("nqgold:7", 0)),
        ("qed:-329", ("qed:-329", 0)),
        ("news-5", ("news-5", 0)),
        (":a:1", (":a:1", 0)),
        ("a::1", ("a::1", 0)),
        ("a:b:" + "7" * 5000, ("a:b:" + "7" * 5000, 0)),  # no number that Python reads
    ],
)
def test_part_of__knows_parts_by_their_ids(identity: str, document: tuple[str, int]) -> None:
    assert part_of(identity) == document


def test_is_excluded__by_whole_prefixes_only() -> None:
    excluded = {"enwiki15:12", "7"}
    assert all(is_excluded(one, excluded) for one in ("enwiki15:12", "enwiki15:12:0", "7-1", "7"))
    assert not any(is_excluded(one, excluded) for one in ("enwiki15:123:0", "enwiki15:1", "77-1", "enwiki15"))


def test_read_documents__joins_parts_wherever_they_stand(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = [(f"w:{d}:{p}", f"T{d}", f"text {d} {p}") for d in range(150) for p in range(0, 2 * int(1 + d % 4), 2)]
    source = files(tmp_path, "parts.jsonl", [parts[i] for i in rng.permutation(len(parts))])
    found = list(read_documents(DocumentsConfig(source=source, join="by_id_prefix"), tmp_path))
    expected = {
        f"w:{d}": (f"T{d}", " ".join(f"text {d} {p}" for p in range(0, 2 * int(1 + d % 4), 2))) for d in range(150)
    }
    assert {document.id: (document.title, document.text) for document in found} == expected
    assert len(found) == 150
    assert len({document_records._hashed(document.id)[0] % document_records.SPILLS for document in found}) > 1


def test_read_documents__keeps_evaluation_documents_out(tmp_path: Path) -> None:
    source = files(tmp_path, "all.jsonl", [(f"w:{d}:{p}", "", f"text {d} {p}") for d in range(30) for p in range(3)])
    held_out = files(tmp_path, "test.jsonl", [(f"w:{d}", "", "whole") for d in range(0, 30, 3)])
    config = DocumentsConfig(source=source, exclude=held_out, join="by_id_prefix")
    assert {document.id for document in read_documents(config, tmp_path)} == {f"w:{d}" for d in range(30) if d % 3}


def test_read_documents__keeps_other_passages_of_the_same_title_out(tmp_path: Path) -> None:
    rows = [("w:1:0", "Oak", "a"), ("other:7", "Oak", "b"), ("w:2:0", "", "c"), ("w:3:0", "Oaks", "d")]
    source = files(tmp_path, "all.jsonl", rows)
    held_out = files(tmp_path, "test.jsonl", [("w:1", "Oak", "whole"), ("w:9", "", "whole")])
    config = DocumentsConfig(source=source, exclude=held_out)
    assert [document.id for document in read_documents(config, tmp_path)] == ["w:2:0", "w:3:0"]


def test_read_documents__of_real_articles(data_folder: Path) -> None:
    articles = FilesSource(files=("lm/wiki_articles.valid.jsonl.gz", "lm/wiki_articles.test.jsonl.gz"))
    passages = FilesSource(files=("wiki/passages-00.jsonl.gz",), limit=32_000)
    config = DocumentsConfig(source=passages, join="by_id_prefix")
    excluding = DocumentsConfig(source=passages, join="by_id_prefix", exclude=articles)
    every, kept = (list(read_documents(each, data_folder)) for each in (config, excluding))
    held_out = list(read_documents(DocumentsConfig(source=articles), data_folder))
    ids, titles = {document.id for document in held_out}, {document.title for document in held_out}
    assert kept == [document for document in every if document.id not in ids and document.title not in titles]
    assert len(every) > len(kept) and len(held_out) == 59 + 65
    assert len({document.id for document in every}) == len(every)


def test_read_documents__fractions_are_nested_and_parts_disjoint() -> None:
    def ids(**settings) -> list[str]:
        config = DocumentsConfig(source=EncyclopediaSource(entities=2000), join="by_id_prefix", **settings)
        return [document.id for document in read_documents(config, None)]

    whole, tenth, hundredth = ids(), ids(fraction=0.1), ids(fraction=0.01)
    assert set(hundredth) < set(tenth) < set(whole) and len(whole) == 2000
    assert tenth == [one for one in whole if one in set(tenth)]
    assert abs(len(tenth) - 200) < 60 and abs(len(hundredth) - 20) < 18
    train, rest = ids(part=(0.0, 0.9)), ids(part=(0.9, 1.0))
    assert set(train) | set(rest) == set(whole) and not set(train) & set(rest)
    assert abs(len(rest) - 200) < 60
    # a fraction of a part is a share of it
    assert abs(len(ids(part=(0.9, 1.0), fraction=0.5)) - len(rest) / 2) < 40


def test_read_documents__refuses_shares_that_are_none() -> None:
    for settings in ({"fraction": 0.0}, {"fraction": 1.5}, {"part": (0.5, 0.5)}, {"part": (0.0, 1.1)}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            next(read_documents(DocumentsConfig(source=SOURCE, **settings), None))
