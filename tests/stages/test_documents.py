"""The documents stage: where its tokenizer comes from, what it leaves out, and whose text it shares."""

import json
from pathlib import Path

import pytest
from transformers import GPT2TokenizerFast

from rlm.config import Runtime
from rlm.data.config import DocumentsConfig, EncyclopediaSource, FilesSource, PretrainedTokenizer, TrainedTokenizer
from rlm.data.documents import Documents
from rlm.errors import ConfigError
from rlm.stages import documents as stage
from tests.worlds import Surroundings

SOURCE = EncyclopediaSource(entities=40)


def run(folder: Path, config: DocumentsConfig, tokenizer, data: Path | None = None) -> Documents:
    folder.mkdir()
    inputs = {"tokenizer": tokenizer} if isinstance(tokenizer, Path) else {}
    given = {"documents": config} if inputs else {"documents": config, "tokenizer": tokenizer}
    stage.run(given, inputs, folder, Surroundings(runtime=Runtime(device="cpu", data=data)))
    return Documents.open(folder)


def test_run__takes_the_tokenizer_of_its_input(tmp_path: Path) -> None:
    first = run(tmp_path / "first", DocumentsConfig(source=SOURCE), TrainedTokenizer(vocab_size=450))
    news = EncyclopediaSource(entities=40, stream="news")
    second = run(tmp_path / "second", DocumentsConfig(source=news), tmp_path / "first")
    assert second.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    assert (second.vocab_size, second.start, second.pad) == (first.vocab_size, first.start, first.pad)
    words = second.tokenizer.decode(second.tokens[0], skip_special_tokens=True).split()
    assert len(words) > 10 and second.id(0) == "news-0"


def test_run__takes_a_gpt2(tmp_path: Path) -> None:
    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyzĠ")}
    (tmp_path / "vocab.json").write_text(json.dumps({**letters, "<|endoftext|>": len(letters)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    GPT2TokenizerFast(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")).save_pretrained(tmp_path / "gpt2")
    (tmp_path / "text.jsonl").write_text('{"id": "a", "title": "A", "text": "no more"}\n')
    config = DocumentsConfig(source=FilesSource(files=("text.jsonl",)))
    documents = run(tmp_path / "documents", config, PretrainedTokenizer(name=str(tmp_path / "gpt2")), tmp_path)
    assert documents.tokens[0].tolist() == [27, *(letters[letter] for letter in "noĠmore")]
    assert documents.bytes.tolist() == [7]


def test_run__keeps_evaluation_documents_out_of_the_retrieval_corpus(tmp_path: Path) -> None:
    def write(name: str, records) -> FilesSource:
        lines = (json.dumps({"id": i, "title": t, "text": x}) for i, t, x in records)
        (tmp_path / name).write_text("\n".join(lines))
        return FilesSource(files=(name,))

    wiki = write("wiki.jsonl", [(f"w:{d}:{p}", f"T{d}", f"text {d} {p}") for d in range(9) for p in range(2)])
    test = write("test.jsonl", [("w:3", "T3", "whole"), ("w:5", "T5", "whole")])
    config = DocumentsConfig(source=wiki, exclude=test, join="by_id_prefix")
    documents = run(tmp_path / "corpus", config, TrainedTokenizer(vocab_size=60), tmp_path)
    assert {documents.id(row) for row in range(len(documents))} == {f"w:{d}" for d in range(9) if d not in (3, 5)}
    everything = DocumentsConfig(source=test, exclude=test)
    with pytest.raises(ValueError, match="no document is left"):
        run(tmp_path / "nothing", everything, tmp_path / "corpus", tmp_path)


def test_run__refuses_a_tokenizer_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.name"):
        run(tmp_path / "x", DocumentsConfig(source=SOURCE), PretrainedTokenizer(name=str(tmp_path / "absent")))
