"""BM25 against the formula, written out."""

import math

import numpy as np
import pytest

from rlm.data.tokens import Ragged
from rlm.retrieval.config import Bm25
from rlm.retrieval.sparse import Bm25Index


@pytest.fixture(scope="module")
def passages():
    rng = np.random.default_rng(0)
    common = 1 / np.arange(1, 51)
    return [rng.choice(50, size=length, p=common / common.sum()).tolist() for length in [0, *rng.integers(1, 30, 199)]]


def bm25(passages, query, k1, b):
    """Robertson and Zaragoza (2009), with Lucene's idf, which is never negative."""
    mean = sum(map(len, passages)) / len(passages)
    scores = []
    for passage in passages:
        score = 0.0
        for piece in query:
            holding = sum(piece in other for other in passages)
            idf = math.log(1 + (len(passages) - holding + 0.5) / (holding + 0.5))
            count = passage.count(piece)
            score += idf * count / (count + k1 * (1 - b + b * len(passage) / mean))
        scores.append(score)
    return np.array(scores)


@pytest.mark.parametrize("config", [Bm25(), Bm25(k1=1.5, b=0.75)])
def test_search__ranks_by_the_formula(passages, config):
    queries = [[3, 17, 17, 40], [0], [49, 48, 47, 1]]
    index = Bm25Index(Ragged.from_rows(passages, np.uint8), config)
    scores, ids = index.search(Ragged.from_rows(queries, np.uint8), 10)
    for query, found_scores, found in zip(queries, scores, ids, strict=True):
        expected = bm25(passages, query, config.k1, config.b)
        np.testing.assert_allclose(found_scores, np.sort(expected)[::-1][:10], rtol=1e-5)
        np.testing.assert_allclose(expected[found], found_scores, rtol=1e-5)
    assert scores.dtype == np.float32 and ids.dtype == np.int64


def test_search__fills_k_with_distinct_ids_when_few_passages_share_a_word_piece():
    index = Bm25Index(Ragged.from_rows([[5], [6, 7], [], [5, 5], [6, 7]]), Bm25())
    scores, ids = index.search(Ragged.from_rows([[5], [7], [900], []]), 5)
    assert ids.tolist() == [[3, 0, 1, 2, 4], [1, 4, 0, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert (scores[0, 2:] == 0).all() and (scores[2:] == 0).all()


def test_search__is_the_same_when_a_batch_is_split(passages, monkeypatch):
    index = Bm25Index(Ragged.from_rows(passages), Bm25())
    queries = Ragged.from_rows([passage[:6] for passage in passages[1:50]])
    whole = index.search(queries, 3)
    monkeypatch.setattr("rlm.retrieval.sparse.BLOCK", 500)
    split = index.search(queries, 3)
    assert np.array_equal(whole[0], split[0]) and np.array_equal(whole[1], split[1])


def test_open__gives_what_was_saved(passages, tmp_path):
    index = Bm25Index(Ragged.from_rows(passages), Bm25(k1=1.2))
    index.save(tmp_path)
    opened = Bm25Index.open(tmp_path)
    queries = Ragged.from_rows(passages[:20])
    assert opened.config == index.config and len(opened) == len(passages)
    assert np.array_equal(opened.search(queries, 4)[1], index.search(queries, 4)[1])


def test_open__names_the_damaged_file(passages, tmp_path):
    Bm25Index(Ragged.from_rows(passages), Bm25()).save(tmp_path)
    path = tmp_path / "bm25.data.npy"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"bm25\.data\.npy: damaged.*build it again"):
        Bm25Index.open(tmp_path)


@pytest.mark.parametrize("k", [0, 3])
def test_search__refuses_a_k_that_it_cannot_fill(k):
    index = Bm25Index(Ragged.from_rows([[1], [2]]), Bm25())
    with pytest.raises(ValueError, match=f"k = {k} of an index of 2 passages; ask for 1 to 2"):
        index.search(Ragged.from_rows([[1]]), k)


def test_bm25__refuses_a_corpus_without_word_pieces():
    with pytest.raises(ValueError, match="2 passages with 0 word pieces"):
        Bm25Index(Ragged.from_rows([[], []]), Bm25())
