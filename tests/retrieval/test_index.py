"""What every index promises: widths, k, files, and passages that a query may not see."""

import json

import numpy as np
import pytest
import torch

from rlm.retrieval.config import ExactIndex, FaissFlat, FaissHnsw, FaissIvfPq, ShardedExact
from rlm.retrieval.index import build_index, open_index, search_excluding

EXACT = [ExactIndex(), ExactIndex(dtype="float32"), ShardedExact()]
FAISS = [
    FaissFlat(),
    FaissHnsw(),
    FaissIvfPq(lists=8, sub_quantizers=16),
    FaissIvfPq(lists=8, sub_quantizers=16, rerank=0),
]
EVERY = EXACT + FAISS


def name(config):
    return f"{config.kind} {getattr(config, 'dtype', getattr(config, 'rerank', ''))}".strip()


def build(config, embeddings):
    if config in FAISS:
        pytest.importorskip("faiss", reason="needs faiss (extra faiss-cpu)")
    return build_index(config, embeddings)


@pytest.mark.parametrize("config", EVERY, ids=name)
def test_search__refuses_another_width_and_a_k_that_it_cannot_fill(config, topics):
    embeddings, queries = topics
    index = build(config, embeddings)
    assert (index.size, index.dim) == embeddings.shape
    with pytest.raises(ValueError, match=r"queries are \(20, 31\), the index holds embeddings of width 32"):
        index.search(queries[:, 1:], 5)
    for k in (0, 3001):
        with pytest.raises(ValueError, match=f"k = {k} of an index of 3000 passages; ask for 1 to 3000"):
            index.search(queries, k)


@pytest.mark.parametrize("config", EVERY, ids=name)
def test_open__gives_what_was_saved(config, topics, tmp_path):
    embeddings, queries = topics
    index = build(config, embeddings)
    index.save(tmp_path)
    opened = open_index(tmp_path)
    assert opened.config == config
    found, expected = opened.search(queries, 12), index.search(queries, 12)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize("config", EVERY, ids=name)
def test_open__names_a_file_that_was_cut_short_or_deleted(config, topics, tmp_path):
    build(config, topics[0]).save(tmp_path)
    files = [path for path in tmp_path.iterdir() if path.name != "index.json"]
    assert files
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=f"{path.name}: damaged.*build it again"):
            open_index(tmp_path)
        path.unlink()
        with pytest.raises(ValueError, match=f"{path.name}: damaged .missing.*build it again"):
            open_index(tmp_path)
        path.write_bytes(whole)
    open_index(tmp_path)


@pytest.mark.parametrize("config", EVERY, ids=name)
def test_open__names_a_file_of_the_right_size_and_the_wrong_content(config, topics, tmp_path):
    build(config, topics[0]).save(tmp_path)
    for path in [path for path in tmp_path.iterdir() if path.name != "index.json"]:
        whole = path.read_bytes()
        path.write_bytes(bytes(len(whole)))
        with pytest.raises(ValueError, match=f"{path.name}.*build it again"):
            open_index(tmp_path)
        path.write_bytes(whole)


@pytest.mark.parametrize("text", [None, "", "[]", '{"config": {"kind": "exactly"}}', '{"config": {"kind": "exact"}}'])
def test_open__says_that_index_json_is_missing_or_damaged(text, topics, tmp_path):
    build_index(ExactIndex(), topics[0]).save(tmp_path)
    path = tmp_path / "index.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ValueError, match=r"index\.json: no index, or a damaged one"):
        open_index(tmp_path)


def test_open__refuses_embeddings_of_another_shape(topics, tmp_path):
    build_index(ExactIndex(), topics[0]).save(tmp_path)
    np.save(tmp_path / "embeddings.npy", topics[0].reshape(1500, 64))
    with pytest.raises(ValueError, match=r"float32 \(1500, 64\) on disk, float32 \(3000, 32\) written"):
        open_index(tmp_path)


def test_save__writes_the_sizes_of_its_files_last(topics, tmp_path):
    build_index(ExactIndex(), topics[0]).save(tmp_path)
    described = json.loads((tmp_path / "index.json").read_text())
    assert described["files"] == {"embeddings.npy": (tmp_path / "embeddings.npy").stat().st_size}
    assert (described["passages"], described["dim"]) == (3000, 32)


@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (8,)])
def test_build__refuses_embeddings_without_passages_or_width(shape):
    with pytest.raises(ValueError, match=r"an index needs \[passages, dim\]"):
        build_index(ExactIndex(), np.zeros(shape, np.float32))


# ---- passages that a query may not see ----


@pytest.mark.parametrize("copies", [1, 3, 40])
def test_search_excluding__gives_the_k_best_others_when_passages_have_copies(copies, brute_force):
    rng = np.random.default_rng(copies)
    distinct = rng.standard_normal((30, 8)).astype(np.float32)
    of = rng.permutation(np.repeat(np.arange(30), copies))
    embeddings, identity = distinct[of], (of + 1000).astype(np.uint64)
    queries = distinct[:12]  # the passage that a query excludes, with all copies, comes first for most
    excluded = identity[[np.flatnonzero(of == i)[0] for i in range(12)]]
    index = build_index(ExactIndex(), embeddings)
    scores, ids = search_excluding(index, torch.from_numpy(queries), 9, excluded, identity)
    assert excluded[0] in identity[index.search(torch.from_numpy(queries), 9)[1].numpy()[0]]
    for row in range(12):
        allowed = np.flatnonzero(identity != excluded[row])
        expected_scores, expected = brute_force(embeddings[allowed], queries[[row]], 9)
        np.testing.assert_array_equal(ids[row].numpy(), allowed[expected[0]])
        np.testing.assert_allclose(scores[row].numpy(), expected_scores[0], rtol=1e-5)


def test_search_excluding__takes_every_passage_when_k_is_all_but_the_excluded(topics):
    embeddings, queries = topics
    index = build_index(ExactIndex(), embeddings[:50])
    identity = np.arange(50, dtype=np.uint64)
    ids = search_excluding(index, queries, 49, np.arange(20, dtype=np.uint64), identity)[1]
    assert [sorted(row) for row in ids.tolist()] == [[i for i in range(50) if i != row] for row in range(20)]


def test_search_excluding__refuses_a_k_that_the_others_cannot_fill(topics):
    embeddings, queries = topics
    index = build_index(ExactIndex(), embeddings[:50])
    identity = np.repeat(np.arange(25, dtype=np.uint64), 2)
    with pytest.raises(ValueError, match="k = 49, but the corpus of 50 passages has fewer than that"):
        search_excluding(index, queries, 49, np.zeros(20, np.uint64), identity)
    with pytest.raises(ValueError, match="19 exclusions for 20 queries"):
        search_excluding(index, queries, 5, np.zeros(19, np.uint64), identity)
