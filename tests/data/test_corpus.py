"""Packing against ORQA's rule written as a loop, and what is read back against what was written."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from rlm.data.config import CorpusConfig, EncyclopediaSource, TrainedTokenizer
from rlm.data.corpus import Corpus, pack, passage_identity, write_corpus
from rlm.data.encyclopedia import passages
from rlm.data.sentences import sentence_spans
from rlm.data.sources import Passage
from rlm.data.tokenizer import make_tokenizer

SOURCE = EncyclopediaSource(entities=40)
TEXTS = [passage.text for passage in passages(SOURCE)]
DOCUMENTS = [Passage(str(i), f"Document {i}", " ".join(TEXTS[10 * i : 10 * i + 10])) for i in range(12)]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(TrainedTokenizer(vocab_size=400), lambda: TEXTS)


def config(packing: str, max_tokens: int = 60) -> CorpusConfig:
    return CorpusConfig(source=SOURCE, max_tokens=max_tokens, packing=packing)


def test_pack__is_orqas_greedy_rule(tokenizer) -> None:
    expected = []
    for document in DOCUMENTS:
        title = len(tokenizer.tokenize(document.title))
        block: list[str] = []
        size = 0
        for start, end in sentence_spans(document.text):
            sentence = document.text[start:end]
            length = len(tokenizer.tokenize(sentence))
            if block and 3 + title + size + length > 60:
                expected.append(" ".join(block))
                block, size = [], 0
            block.append(sentence)
            size += length
        expected.append(" ".join(block))
    packed = list(pack(DOCUMENTS, tokenizer, config("sentences")))
    assert [p.passage.text for p in packed] == expected
    assert len(packed) > 2 * len(DOCUMENTS)
    assert len({p.passage.id for p in packed}) == len(packed)


def test_pack__tokenises_a_passage_as_its_whole_text(tokenizer) -> None:
    for packed in pack(DOCUMENTS, tokenizer, config("sentences")):
        assert packed.tokens == tokenizer(packed.passage.text, add_special_tokens=False)["input_ids"]
        assert packed.sentences[0] == 0 and max(packed.sentences) < len(packed.tokens)


def test_pack__gives_an_over_long_sentence_a_passage_of_its_own(tokenizer) -> None:
    long = "Word " + "after word " * 60 + "ended."
    document = Passage("x", "T", f"It began. {long} It ended.")
    texts = [packed.passage.text for packed in pack([document], tokenizer, config("sentences"))]
    assert texts == ["It began.", long, "It ended."]


def test_pack__as_is_keeps_each_record_whole(tokenizer) -> None:
    assert [packed.passage for packed in pack(DOCUMENTS, tokenizer, config("as_is"))] == DOCUMENTS


def test_corpus__reads_back_what_was_written(tokenizer, tmp_path: Path) -> None:
    summary = write_corpus(tmp_path, DOCUMENTS, tokenizer, config("sentences"))
    corpus = Corpus.open(tmp_path)
    packed = list(pack(DOCUMENTS, tokenizer, config("sentences")))
    assert len(corpus) == len(packed) == summary["passages"]
    for row, expected in enumerate(packed):
        assert corpus.passage(row) == expected.passage
        assert corpus.tokens[row].tolist() == expected.tokens
        assert corpus.titles[row].tolist() == expected.title
        assert corpus.sentences[row].tolist() == expected.sentences
        assert int(corpus.identity[row]) == passage_identity(expected.passage)
    assert corpus.tokens.values.dtype == np.uint16
    again = pickle.loads(pickle.dumps(corpus))
    assert again.tokens.values.tolist() == corpus.tokens.values.tolist()


def test_corpus__refuses_truncated_arrays(tokenizer, tmp_path: Path) -> None:
    write_corpus(tmp_path, DOCUMENTS, tokenizer, config("sentences"))
    path = tmp_path / "tokens.values.npy"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError):
        Corpus.open(tmp_path)


def test_write_corpus__refuses_no_passages(tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no passages"):
        write_corpus(tmp_path, [], tokenizer, config("as_is"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It rained. We left.", ["It rained.", "We left."]),
        ("Dr. A. B. Lee met Mr. Wu. He left!", ["Dr. A. B. Lee met Mr. Wu.", "He left!"]),
        ('He said "Nay." Then he left?  Yes.', ['He said "Nay."', "Then he left?", "Yes."]),
        ("It costs 3.50 in the U.S. today. 7 left.", ["It costs 3.50 in the U.S. today.", "7 left."]),
        ("  no end ", ["no end"]),
        ("", []),
    ],
)
def test_sentence_spans__know_abbreviations(text: str, expected: list[str]) -> None:
    assert [text[a:b] for a, b in sentence_spans(text)] == expected


def test_trained_tokenizer__is_the_same_each_time() -> None:
    first, second = (make_tokenizer(TrainedTokenizer(vocab_size=400), lambda: TEXTS) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
