"""Indexes of faiss against the brute-force twin."""

import sys

import numpy as np
import pytest
import torch

from rlm.errors import ConfigError
from rlm.retrieval.config import FaissFlat, FaissHnsw, FaissIvfPq
from rlm.retrieval.faiss_indexes import FAISS_KINDS, IvfPq
from rlm.retrieval.index import build_index

faiss = pytest.importorskip("faiss", reason="needs faiss (extra faiss-cpu)")


def recall(found, expected):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), expected.tolist(), strict=True)])


def test_flat__equals_brute_force(topics, brute_force):
    embeddings, queries = topics
    scores, ids = build_index(FaissFlat(), embeddings).search(queries, 10)
    expected_scores, expected = brute_force(embeddings, queries.numpy(), 10)
    np.testing.assert_array_equal(ids.numpy(), expected)
    np.testing.assert_allclose(scores.numpy(), expected_scores, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "bound"),
    [
        (FaissHnsw(), 0.95),
        (FaissIvfPq(lists=16, probes=8, sub_quantizers=16), 0.95),
        (FaissIvfPq(lists=16, probes=16, sub_quantizers=16, rerank=0), 0.6),
    ],
    ids=["hnsw", "ivf_pq re-ranked", "ivf_pq"],
)
def test_approximate__finds_most_of_the_ten_best(config, bound, topics, brute_force):
    embeddings, queries = topics
    ids = build_index(config, embeddings).search(queries, 10)[1]
    assert recall(ids, brute_force(embeddings, queries.numpy(), 10)[1]) >= bound


def test_ivf_pq__scores_candidates_from_the_full_embeddings(topics):
    embeddings, queries = topics
    scores, ids = build_index(FaissIvfPq(lists=16, sub_quantizers=16), embeddings).search(queries, 5)
    exact = np.einsum("qkd,qd->qk", embeddings[ids.numpy()].astype(np.float64), queries.double().numpy())
    np.testing.assert_allclose(scores.numpy(), exact, rtol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        FaissFlat(),
        FaissHnsw(neighbours=4, ef_search=4),
        FaissIvfPq(lists=64, probes=1, sub_quantizers=16),
        FaissIvfPq(lists=64, probes=1, sub_quantizers=16, rerank=0),
    ],
    ids=["flat", "hnsw", "ivf_pq re-ranked", "ivf_pq"],
)
@pytest.mark.parametrize("k", [1, 500, 3000])
def test_search__fills_k_with_distinct_passages_in_order(config, k, topics):
    embeddings, queries = topics
    scores, ids = build_index(config, embeddings).search(queries[:4], k)
    assert [len(set(row)) for row in ids.tolist()] == [k] * 4
    assert int(ids.min()) >= 0 and int(ids.max()) < len(embeddings)
    assert bool((scores[:, :-1] >= scores[:, 1:]).all())


def test_search__gives_equal_scores_by_lower_id():
    embeddings = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)
    ids = build_index(FaissFlat(), embeddings).search(torch.eye(4), 12)[1]
    assert ids[1].tolist() == [3, 4, 5, 0, 1, 2, 6, 7, 8, 9, 10, 11]


def test_ivf_pq__says_that_it_uses_fewer_lists(topics, caplog):
    index = build_index(FaissIvfPq(sub_quantizers=16), topics[0])
    assert index.index.nlist == 3000 // 39
    assert "76 lists rather than 4096" in caplog.text


def test_ivf_pq__refuses_what_it_cannot_learn_from():
    with pytest.raises(ValueError, match="at least 256 passages to learn from, not 255: use `kind: exact`"):
        IvfPq.build(FaissIvfPq(), np.zeros((255, 128), np.float32))
    with pytest.raises(ValueError, match="64 does not divide the embeddings' width of 96; write 48"):
        IvfPq.build(FaissIvfPq(), np.zeros((300, 96), np.float32))


@pytest.mark.parametrize("config", [FaissFlat(), FaissIvfPq(), FaissHnsw()])
def test_build__names_the_package_when_faiss_is_missing(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match="pip install faiss-cpu"):
        FAISS_KINDS[config.kind].build(config, np.zeros((300, 128), np.float32))
