"""What an encoder reads of a chunk, against the chunk's tokens decoded and encoded by hand."""

from pathlib import Path

import numpy as np
import pytest

from rlm.data.chunk_pieces import ChunkPieces, encoder_special_tokens
from rlm.data.chunks import Chunks
from rlm.data.config import EncyclopediaSource, TrainedByteTokenizer, TrainedTokenizer
from rlm.data.documents import Documents, write_documents
from rlm.data.encyclopedia import passages
from rlm.data.tokenizer import make_tokenizer
from rlm.data.tokens import SpecialTokens

WRITTEN = list(passages(EncyclopediaSource(entities=40)))[:60]
TEXTS = [passage.text for passage in WRITTEN]
BERT = make_tokenizer(TrainedTokenizer(vocab_size=300), lambda: TEXTS)
OTHERS = {
    "wordpiece": make_tokenizer(TrainedTokenizer(vocab_size=200), lambda: TEXTS),
    "bytes": make_tokenizer(TrainedByteTokenizer(vocab_size=400), lambda: TEXTS, needs=()),
}


def chunks_of(folder: Path, tokenizer, m: int) -> Chunks:
    write_documents(folder, WRITTEN, tokenizer)
    return Chunks(Documents.open(folder), m)


def own_tokens(chunks: Chunks, chunk: int) -> list[int]:
    """Of a chunk, without its document's start token."""
    ids, mask = chunks.take(np.array([chunk]))
    tokens = ids[0][mask[0]].tolist()
    return tokens[1:] if chunk in set(chunks.first.tolist()) else tokens


@pytest.mark.parametrize("m", [1, 7, 64])
def test_pieces__of_the_same_vocabulary_are_the_tokens(m: int, tmp_path: Path) -> None:
    chunks = chunks_of(tmp_path, BERT, m)
    pieces = ChunkPieces(chunks, BERT)
    for first, last in ((0, len(chunks)), (3, 4), (5, 20)):
        found = pieces(first, last)
        assert [row.tolist() for row in (found[i] for i in range(len(found)))] == [
            own_tokens(chunks, chunk) for chunk in range(first, last)
        ]


@pytest.mark.parametrize("kind", OTHERS)
def test_pieces__of_another_vocabulary_are_those_of_the_text(kind: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("rlm.data.chunk_pieces.TOGETHER", 11)
    chunks = chunks_of(tmp_path, OTHERS[kind], 7)
    found = ChunkPieces(chunks, BERT)(2, 60)
    for row in range(58):
        text = OTHERS[kind].decode(own_tokens(chunks, row + 2)).removeprefix("##")
        assert found[row].tolist() == BERT(text, add_special_tokens=False)["input_ids"]


def test_encoder_special_tokens__when_there_are_none() -> None:
    assert encoder_special_tokens(OTHERS["bytes"], 9, 4) == SpecialTokens(cls=9, sep=9, pad=4, mask=4)
    own = encoder_special_tokens(BERT, 9, 4)
    assert (own.cls, own.sep) == (BERT.cls_token_id, BERT.sep_token_id)
