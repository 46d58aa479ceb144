"""Exact search against a brute force in float64, where the scan in 16 bits has most to get wrong."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from rlm.retrieval import exact
from rlm.retrieval.config import ExactIndex
from rlm.retrieval.exact import Exact

DTYPES = ["bfloat16", "float16", "float32"]


def embeddings_like(name, passages, width):
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((passages, width))
    match name:
        case "random":
            rows = noise
        case "unequal lengths":
            rows = noise * rng.lognormal(0, 1, (passages, 1)) + 3
        case "collapsed":  # bfloat16 cannot tell these apart
            rows = rng.standard_normal(width) + 1e-4 * noise
        case "tiny":
            rows = 1e-20 * noise
        case "near ties":  # nor float32 scores these
            rows = np.ones((passages, width)) + 2.0**-23 * rng.integers(0, 3, (passages, width))
        case "small integers":
            rows = rng.integers(-2, 3, (passages, width))
        case "copies":
            rows = noise[rng.integers(max(1, passages // 5), size=passages)]
        case "negative":  # every score is below zero
            rows = -np.abs(noise)
    return rows.astype(np.float32)


KINDS = ["random", "unequal lengths", "collapsed", "tiny", "near ties", "small integers", "copies", "negative"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("passages", [1, 7, 300, 4099])
def test_search__gives_the_ids_and_order_of_a_search_in_float64(kind, dtype, passages, brute_force, scan):
    embeddings = embeddings_like(kind, passages, 24)
    queries = np.abs(embeddings_like("small integers" if kind == "small integers" else "random", 9, 24))
    index = Exact(scan(dtype), embeddings)
    for k in sorted({1, min(8, passages), max(1, passages // 3), passages}):
        scores, ids = index.search(torch.from_numpy(queries), k)
        expected_scores, expected = brute_force(embeddings, queries, k)
        np.testing.assert_array_equal(ids.numpy(), expected)
        np.testing.assert_allclose(
            scores.numpy(), expected_scores, rtol=1e-6, atol=1e-6 * np.abs(expected_scores).max()
        )
        assert scores.dtype == torch.float32 and ids.dtype == torch.int64


# ---- what the bound must allow for, one part at a time; embeddings and their opposites are centred at zero ----


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_search__finds_the_best_passage_when_rounding_favours_another(dtype, brute_force, scan):
    # Every value of the best passage is rounded down, every value of the other one up, but for the last, which keeps
    # the scores small beside these errors.
    kind = getattr(torch, dtype)
    unit = torch.finfo(kind).eps / 2
    best = [1 + 0.99 * unit] * 24 + [-22]
    other = [1 + 3.01 * unit, 1 - 1.49 * unit] * 12 + [-22]
    embeddings = np.float32([other, best, np.negative(other), np.negative(best)])
    queries = np.ones((1, 25), np.float32)
    assert brute_force(embeddings, queries, 1)[1] == 1
    rounded = torch.from_numpy(embeddings).to(kind).float().sum(1)
    assert rounded[0] > rounded[1]
    assert Exact(scan(dtype), embeddings).search(torch.from_numpy(queries), 1)[1] == 1


def test_search__finds_the_best_passage_when_the_rounding_of_scores_favours_another():
    # bfloat16 holds 300 and 302 but not 301, the border between them, which both sums are near.
    best, other = [200, 100.24, 0.875], [200, 101, 0.0625]
    assert float(torch.tensor(best).bfloat16().float().sum()) < 301 < sum(other) < sum(best)
    embeddings = np.float32([other, best, np.negative(other), np.negative(best)])
    assert Exact(ExactIndex(), embeddings).search(torch.ones(1, 3), 1)[1] == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_search__is_exact_where_all_but_one_score_are_below_the_mean(dtype, brute_force, scan):
    # Maxima may not be compared as integers there.
    half = np.random.default_rng(0).integers(-63, 64, (2048, 24)) / 64
    others = -1 + np.concatenate([half, -half])
    embeddings = np.concatenate([-others.sum(0, keepdims=True), others]).astype(np.float32)
    queries = np.random.default_rng(1).integers(1, 3, (9, 24)).astype(np.float32)
    ids = Exact(scan(dtype), embeddings).search(torch.from_numpy(queries), 8)[1]
    np.testing.assert_array_equal(ids.numpy(), brute_force(embeddings, queries, 8)[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [(1e-12, 1), (1, 1e-12), (1e9, 1e9), (1e12, 1e-12), (1, 0), (1e-12, 0)])
def test_search__is_exact_whatever_the_lengths(lengths, dtype, brute_force, scan):
    of_embeddings, of_queries = (np.float32(length) for length in lengths)
    embeddings = of_embeddings * embeddings_like("unequal lengths", 3000, 24)
    queries = of_queries * embeddings_like("random", 9, 24)
    ids = Exact(scan(dtype), embeddings).search(torch.from_numpy(queries), 8)[1]
    np.testing.assert_array_equal(ids.numpy(), brute_force(embeddings, queries, 8)[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_search__gives_ties_by_lower_id(dtype, scan):
    index = Exact(scan(dtype), np.ones((1000, 8), np.float32))
    ids = index.search(torch.tensor([[1.0] * 8, [0.0] * 8, [-1.0] * 8]), 5)[1]
    assert ids.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_search__is_exact_when_batches_blocks_and_candidates_are_split(monkeypatch, brute_force):
    monkeypatch.setattr(exact, "QUERIES", 16)
    monkeypatch.setattr(exact, "BLOCK", {"cpu": 4096})
    monkeypatch.setattr(exact, "ROWS", 128)
    monkeypatch.setattr(exact, "CANDIDATES", 512)
    monkeypatch.setattr(exact, "REACHED", 1024)
    embeddings, queries = embeddings_like("copies", 5000, 16), embeddings_like("random", 37, 16)
    ids = Exact(ExactIndex(), embeddings).search(torch.from_numpy(queries), 6)[1]
    np.testing.assert_array_equal(ids.numpy(), brute_force(embeddings, queries, 6)[1])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_search__is_exact_for_queries_whose_squares_float32_does_not_hold(dtype, brute_force, scan):
    embeddings, queries = embeddings_like("random", 3000, 24), np.float32(5e18) * embeddings_like("random", 9, 24)
    ids = Exact(scan(dtype), embeddings).search(torch.from_numpy(queries), 8)[1]
    np.testing.assert_array_equal(ids.numpy(), brute_force(embeddings, queries, 8)[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_search__is_exact_while_others_compute_in_bfloat16(dtype, brute_force, scan):
    embeddings, queries = embeddings_like("random", 3000, 24), embeddings_like("random", 9, 24)
    with torch.autocast("cpu", torch.bfloat16):
        ids = Exact(scan(dtype), embeddings).best(torch.from_numpy(queries), 8)[1]
    np.testing.assert_array_equal(ids.numpy(), brute_force(embeddings, queries, 8)[1])


def test_search__is_the_same_whatever_was_searched_before():
    index = Exact(ExactIndex(), embeddings_like("random", 3000, 16))
    queries = torch.from_numpy(embeddings_like("random", 40, 16))
    first = index.search(queries, 5)
    index.search(queries[:3], 700)
    again = index.search(queries, 5)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


def test_search__holds_when_float32_products_are_allowed_less_precision(brute_force):
    embeddings, queries = embeddings_like("random", 4000, 32), embeddings_like("random", 20, 32)
    torch.set_float32_matmul_precision("medium")
    try:
        ids = Exact(ExactIndex(dtype="float32"), embeddings).search(torch.from_numpy(queries), 8)[1]
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_array_equal(ids.numpy(), brute_force(embeddings, queries, 8)[1])


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 100), ("float16", 20)])
def test_floor__is_above_nothing_that_a_brute_force_finds_and_lets_few_passages_by(dtype, most, scan):
    if dtype == "bfloat16" and not exact.has_fast_bfloat16(torch.device("cpu")):
        pytest.skip("scans in float32 here")
    # The bound is what exactness rests on: no score may be further from the truth, and it must be worth having.
    embeddings = torch.from_numpy(embeddings_like("unequal lengths", 4000, 128))
    queries = torch.from_numpy(embeddings_like("random", 32, 128))
    index = Exact(scan(dtype), embeddings)
    scaled, wide, times = index._lowered(queries)
    scanned = (wide @ index._scanned.T).double()
    centre = embeddings.float().mean(0).double()
    true = times[:, None] * (queries.double() @ (embeddings.double() - centre).T)
    reached = scanned.topk(8).values[:, -1].float()
    floor = index._floor(reached, scaled, wide).double()
    kth = true.topk(8).values[:, -1:]
    assert bool((scanned[true >= kth] >= floor[:, None].expand_as(true)[true >= kth]).all())
    assert float((scanned >= floor[:, None]).sum(1).double().mean()) < most


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_exact__refuses_numbers_that_are_not_finite(bad):
    embeddings = np.ones((20, 4), np.float32)
    index = Exact(ExactIndex(), embeddings.copy())
    embeddings[3, 1] = bad
    with pytest.raises(ValueError, match="embeddings hold NaN or infinity"):
        Exact(ExactIndex(), embeddings)
    with pytest.raises(ValueError, match="queries hold NaN or infinity"):
        index.search(torch.tensor([[0, bad, 0, 0]], dtype=torch.float32), 2)


def test_search__of_no_queries_finds_nothing():
    scores, ids = Exact(ExactIndex(), np.ones((20, 4), np.float32)).search(torch.zeros(0, 4), 3)
    assert scores.shape == ids.shape == (0, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_search__is_exact_on_a_gpu(brute_force):
    queries = embeddings_like("random", 33, 128)
    for kind in KINDS:
        embeddings = embeddings_like(kind, 20_000, 128)
        expected = brute_force(embeddings, queries, 8)[1]
        for dtype in ("bfloat16", "float32"):
            index = Exact(ExactIndex(dtype=dtype), embeddings, "cuda")
            scores, ids = index.search(torch.from_numpy(queries).cuda(), 8)
            assert scores.is_cuda and ids.is_cuda
            np.testing.assert_array_equal(ids.cpu().numpy(), expected, err_msg=f"{kind} {dtype}")


@pytest.mark.parametrize("resident", [True, False])
def test_exact__of_a_large_memory_map_lets_go_of_what_was_read(resident, brute_force, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    path = tmp_path / "embeddings.npy"
    np.save(path, rng.standard_normal((20_000, 64)).astype(np.float32))
    if not resident:
        monkeypatch.setattr(exact, "MAPPED", 0)
    embeddings = np.load(path, mmap_mode="c")
    queries = rng.standard_normal((30, 64)).astype(np.float32)
    index = Exact(ExactIndex(), embeddings)
    scores, ids = index.search(torch.from_numpy(queries), 5)
    expected_scores, expected = brute_force(np.load(path), queries, 5)
    np.testing.assert_array_equal(ids.numpy(), expected)
    np.testing.assert_allclose(scores.numpy(), expected_scores, rtol=1e-6)
    mapping = re.search(rf"{re.escape(str(path))}\n.*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text(), re.DOTALL)
    assert (int(mapping[1]) > 1_000) == resident
