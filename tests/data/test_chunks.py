"""Chunks against slices of lists."""

import numpy as np
import pytest

from rlm.data.chunks import Chunks
from rlm.data.config import TrainedByteTokenizer, TrainedTokenizer
from rlm.data.documents import Documents, write_documents
from rlm.data.sources import Passage
from rlm.data.tokenizer import make_tokenizer
from tests.data.texts import numbered_documents

LENGTHS = [5, 1, 8, 4, 9, 3, 12, 2]


@pytest.fixture(scope="module")
def documents(tmp_path_factory) -> Documents:
    return numbered_documents(tmp_path_factory.mktemp("documents"), LENGTHS)


def by_hand(documents: Documents, m: int) -> list[tuple[int, int]]:
    """Document and place of each chunk."""
    return [(d, start) for d in range(len(documents)) for start in range(0, len(documents.tokens[d]), m)]


@pytest.mark.parametrize("m", [1, 3, 4, 64])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_take__is_a_slice_of_one_document(documents: Documents, m: int, count: int) -> None:
    chunks, expected = Chunks(documents, m), by_hand(documents, m)
    assert len(chunks) == len(expected)
    numbers = np.arange(len(chunks))
    assert chunks.document_of(numbers).tolist() == [d for d, _ in expected]
    ids, mask = chunks.take(numbers, count)
    assert ids.shape == mask.shape == (len(chunks), count * m)
    for row, (document, start) in enumerate(expected):
        tokens = documents.tokens[document][start : start + count * m].tolist()
        padding = count * m - len(tokens)
        assert ids[row].tolist() == tokens + [documents.pad] * padding
        assert mask[row].tolist() == [True] * len(tokens) + [False] * padding
        place = int(documents.tokens.offsets[document]) + start
        assert chunks.starts(numbers)[row] == place
        assert chunks.stops(numbers, count)[row] == place + len(tokens)


def test_take__keeps_the_shape_of_its_numbers(documents: Documents) -> None:
    chunks = Chunks(documents, 4)
    numbers = np.random.default_rng(0).integers(0, len(chunks), (2, 3, 5))
    ids, _ = chunks.take(numbers, 2)
    assert ids.shape == (2, 3, 5, 8)
    assert np.array_equal(ids[1, 2, 3], chunks.take(numbers[1, 2, 3:4], 2)[0][0])


def test_chunks__refuses_no_tokens(documents: Documents) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Chunks(documents, 0)


TEXTS = ["naïve café — 東京 🙂 and so on", "x", "a plain text, a plain text"]


def of_texts(folder, config) -> Documents:
    folder.mkdir()
    tokenizer = make_tokenizer(config, lambda: TEXTS, ())
    write_documents(folder, [Passage(str(i), "", text) for i, text in enumerate(TEXTS)], tokenizer)
    return Documents.open(folder)


@pytest.mark.parametrize("m", [1, 3, 100])
def test_bytes__of_byte_level_tokens_are_those_of_the_text(tmp_path, m: int) -> None:
    documents = of_texts(tmp_path / "documents", TrainedByteTokenizer(vocab_size=265))
    chunks = Chunks(documents, m)
    pieces = documents.tokenizer.convert_ids_to_tokens
    expected = []
    for document, start in by_hand(documents, m):
        ids = documents.tokens[document][max(start, 1) : start + m].tolist()
        expected.append(len("".join(pieces(ids))))
    assert chunks.bytes().tolist() == expected
    assert sum(expected) == sum(len(text.encode()) for text in TEXTS)


def test_bytes__of_word_pieces_are_in_proportion_to_their_number(tmp_path) -> None:
    documents = of_texts(tmp_path / "documents", TrainedTokenizer(vocab_size=60))
    expected = [
        len(TEXTS[document].encode())
        * len(documents.tokens[document][max(start, 1) : start + 4])
        / (len(documents.tokens[document]) - 1)
        for document, start in by_hand(documents, 4)
    ]
    assert Chunks(documents, 4).bytes() == pytest.approx(expected)
