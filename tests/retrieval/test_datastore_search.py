"""Nearest keys against a loop in float64 over the whole datastore."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rlm.retrieval.config import ExactIndex, FaissFlat, FaissIvfPq
from rlm.retrieval.datastore import Datastore
from rlm.retrieval.datastore_search import ExactSearch, FaissSearch, build_faiss, open_search, save_faiss
from rlm.retrieval.datastore_writer import DatastoreWriter
from rlm.retrieval.exact import Exact
from rlm.retrieval.segment import CANDIDATES, RANKED, SAMPLED, Segment
from tests.retrieval.test_exact import DTYPES, KINDS, embeddings_like

DIM, KEYS = 24, 3000


def stored(folder: Path, keys: np.ndarray, dtype="float32") -> Datastore:
    writer = DatastoreWriter(folder, keys.shape[1], 100, {"model": "lm", "key": "ffn_input"}, dtype, shard=700)
    writer.append(keys, np.arange(len(keys)) % 100)
    writer.close()
    return Datastore.open(folder)


@pytest.fixture(scope="module")
def states() -> tuple[np.ndarray, torch.Tensor]:
    """Keys in clusters, of unequal length and far from 0, some of them twice; queries near some, equal to some, and
    far from all."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, DIM))
    keys = centres[rng.integers(40, size=KEYS)] + 0.5 * rng.standard_normal((KEYS, DIM)) + 3
    keys = (keys * rng.uniform(0.5, 1.5, (KEYS, 1))).astype(np.float16).astype(np.float32)
    keys[1000:1100] = keys[:100]
    queries = np.concatenate([keys[:50] + 0.2 * rng.standard_normal((50, DIM)), keys[50:60], -20 * keys[60:65]])
    return keys, torch.from_numpy(queries.astype(np.float32))


def by_hand(keys: np.ndarray, queries: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    distances = np.stack([((keys.astype(float) - query) ** 2).sum(1) for query in queries.double().numpy()])
    ids = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, ids, 1), ids


@pytest.mark.parametrize("k", [1, 7, 256, KEYS])
@pytest.mark.parametrize("segment", [None, 512])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stored_as", ["float32", "float16"])
def test_exact__finds_what_a_loop_finds(tmp_path: Path, states, k: int, segment, dtype, stored_as, scan) -> None:
    keys, queries = states
    search = ExactSearch(stored(tmp_path / "a", keys, stored_as), scan(dtype), segment=segment)
    distances, ids = search.search(queries, k)
    wanted, wanted_ids = by_hand(keys, queries, k)
    assert distances.dtype == torch.float32 and ids.dtype == torch.int64
    np.testing.assert_allclose(distances, wanted, rtol=1e-5, atol=1e-5)
    assert bool((distances.diff(dim=1) >= 0).all())
    # keys that float32 cannot tell apart may come in another order
    same = (ids.numpy() == wanted_ids) | (np.abs(distances.numpy() - wanted) < 1e-4 * (1 + wanted))
    assert same.all() and (ids.numpy() == wanted_ids).mean() > 0.999
    assert all(len(set(row)) == k for row in ids.tolist())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("segment", [None, 2500])
def test_exact__of_many_neighbours_whatever_the_keys(tmp_path: Path, kind: str, dtype, segment, scan) -> None:
    """Where bfloat16 tells little apart, and all scores are below 0."""
    keys = embeddings_like(kind, 5000, DIM)
    queries = torch.from_numpy(np.concatenate([keys[:20], 1.1 * keys[20:30], embeddings_like("random", 9, DIM)]))
    distances, ids = ExactSearch(stored(tmp_path, keys), scan(dtype), segment=segment).search(queries, 96)
    wanted, _ = by_hand(keys, queries, 96)
    scale = float(np.square(keys.astype(float)).sum(1).max())
    np.testing.assert_allclose(distances, wanted, rtol=1e-5, atol=1e-6 * scale)
    own = ((keys.astype(float)[ids.numpy()] - queries.double().numpy()[:, None]) ** 2).sum(2)
    np.testing.assert_allclose(own, wanted, rtol=1e-5, atol=1e-6 * scale)
    assert all(len(set(row)) == 96 for row in ids.tolist())


def test_exact__of_many_neighbours_looks_at_few_keys(tmp_path: Path, states, monkeypatch: pytest.MonkeyPatch) -> None:
    ranked, looked = [], Segment._ranked

    def counted(self, row, counts, queries, k):
        ranked.append(counts)
        return looked(self, row, counts, queries, k)

    monkeypatch.setattr(Segment, "_ranked", counted)
    ExactSearch(stored(tmp_path, states[0]), ExactIndex()).search(states[1][:50], 64)
    assert 64 <= int(torch.cat(ranked).min()) <= int(torch.cat(ranked).max()) < 3 * 64


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("k", [8, 64])
@pytest.mark.parametrize("segment", [None, 1000])
def test_exact__whatever_the_lengths_and_far_from_all(tmp_path: Path, states, length, k, segment, dtype, scan) -> None:
    """Segments of other lengths, and queries that are far longer than keys."""
    keys = (length * states[0]).astype(np.float32)
    keys[:1000] *= 30
    queries = torch.cat([length * states[1], 1e3 * length * states[1][:5], 30 * length * states[1][5:9]])
    distances, ids = ExactSearch(stored(tmp_path, keys), scan(dtype), segment=segment).search(queries, k)
    wanted, _ = by_hand(keys, queries, k)
    own = ((keys.astype(float)[ids.numpy()] - queries.double().numpy()[:, None]) ** 2).sum(2)
    for found in (distances, own):
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-9 * length**2)
    assert all(len(set(row)) == k for row in ids.tolist())


def tight_clusters(away: float, apart: float, clusters: int = 8, members: int = 250) -> tuple[np.ndarray, torch.Tensor]:
    """float32 keys in clusters so far from the origin, their members so little apart, and queries near 60 of them."""
    rng = np.random.default_rng(0)
    centres = away * rng.standard_normal((clusters, DIM)) + away
    members_of = np.repeat(centres, members, 0) + apart * rng.standard_normal((clusters * members, DIM))
    keys = rng.permutation(members_of).astype(np.float32)
    return keys, torch.from_numpy((keys[:60] + apart * rng.standard_normal((60, DIM))).astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 50, 96])
@pytest.mark.parametrize("segment", [None, 600])
@pytest.mark.parametrize(("away", "apart"), [(100.0, 1e-3), (1e4, 0.5), (1.0, 1e-5)])
def test_exact__of_tight_clusters_far_from_the_origin(tmp_path: Path, away, apart, segment, k, dtype, scan) -> None:
    """What tells members apart is less than what float32 rounds where it moves them."""
    keys, queries = tight_clusters(away, apart)
    distances, ids = ExactSearch(stored(tmp_path, keys), scan(dtype), segment=segment).search(queries, k)
    wanted, wanted_ids = by_hand(keys, queries, k)
    np.testing.assert_allclose(distances, wanted, rtol=1e-5)
    assert (ids.numpy() == wanted_ids).mean() > 0.999
    own = ((keys.astype(float)[ids.numpy()] - queries.double().numpy()[:, None]) ** 2).sum(2)
    np.testing.assert_allclose(own, wanted, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [8, 64])
@pytest.mark.parametrize("segment", [None, 1000])
def test_exact__while_others_compute_in_bfloat16(tmp_path: Path, states, k, segment, dtype, scan) -> None:
    search = ExactSearch(stored(tmp_path, states[0]), scan(dtype), segment=segment)
    alone = search.search(states[1], k)
    with torch.autocast("cpu", torch.bfloat16):
        beside = search.search(states[1], k)
    assert all(torch.equal(one, other) for one, other in zip(alone, beside, strict=True))


def test_exact__when_a_long_key_makes_most_others_candidates(tmp_path: Path, states, monkeypatch) -> None:
    keys = states[0].copy()
    keys[5] *= 1e4
    compared, distances_of = [], Segment._distances

    def counted(self, queries, rows):
        compared.append(rows.numel() * self.dim)
        return distances_of(self, queries, rows)

    monkeypatch.setattr(Segment, "_distances", counted)
    monkeypatch.setitem(RANKED, "cpu", 1 << 14)
    distances, ids = ExactSearch(stored(tmp_path, keys), ExactIndex()).search(states[1], 64)
    wanted, _ = by_hand(keys, states[1], 64)
    np.testing.assert_allclose(distances, wanted, rtol=1e-5, atol=1e-5)
    assert max(compared) <= 1 << 14 < len(keys) * DIM
    assert all(len(set(row)) == 64 for row in ids.tolist())


@pytest.mark.parametrize("segment", [None, 1000])
def test_exact__of_no_queries_finds_nothing(tmp_path: Path, states, segment) -> None:
    distances, ids = ExactSearch(stored(tmp_path, states[0]), ExactIndex(), segment=segment).search(
        torch.zeros(0, DIM), 8
    )
    assert distances.shape == ids.shape == (0, 8)


def test_exact__gives_a_key_itself_the_distance_0(tmp_path: Path, states) -> None:
    distances, ids = ExactSearch(stored(tmp_path, states[0]), ExactIndex()).search(states[1][50:60], 2)
    assert ids[:, 0].tolist() == list(range(50, 60)) and ids[:, 1].tolist() == list(range(1050, 1060))
    assert bool((distances == 0).all())


def test_exact__when_another_corpus_is_appended(tmp_path: Path, states) -> None:
    keys, queries = states
    parts = [stored(tmp_path / "a", keys[:1300]), stored(tmp_path / "b", keys[1300:], "float16")]
    found = ExactSearch(Datastore.joined(parts), ExactIndex(), segment=512).search(queries, 64)
    whole = ExactSearch(stored(tmp_path / "whole", keys), ExactIndex()).search(queries, 64)
    assert all(torch.equal(one, other) for one, other in zip(found, whole, strict=True))


def test_exact__of_many_neighbours_when_the_sample_is_not_like_the_rest(
    tmp_path: Path, states, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, queries = states[0].copy(), states[1]
    keys[::SAMPLED] = keys[0]  # all of the sample: as near to some queries as nothing else, far from others
    search, fallen = ExactSearch(stored(tmp_path, keys), ExactIndex()), []
    best = Exact._best

    def counted(self, queries, k, positive=True):
        fallen.append(len(queries))
        return best(self, queries, k, positive)

    monkeypatch.setattr(Exact, "_best", counted)
    distances, ids = search.search(queries, 64)
    wanted, wanted_ids = by_hand(keys, queries, 64)
    np.testing.assert_allclose(distances, wanted, rtol=1e-5, atol=1e-5)
    assert (ids.numpy() == wanted_ids).mean() > 0.999
    assert 0 < max(fallen) < len(queries), "only those are searched again"


def test_exact__of_many_neighbours_when_all_keys_are_equal(
    tmp_path: Path, states, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CANDIDATES, "cpu", KEYS)  # those of one query, not those of two
    keys = np.broadcast_to(states[0][:1], states[0].shape)
    distances, ids = ExactSearch(stored(tmp_path, keys), ExactIndex()).search(states[1], 64)
    assert bool((ids == torch.arange(64)).all()) and bool((distances == distances[:, :1]).all())


def test_exact__on_several_devices(tmp_path: Path, states) -> None:
    store = stored(tmp_path, states[0])
    one, two = (ExactSearch(store, ExactIndex(), ["cpu"] * n, segment=512).search(states[1], 64) for n in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_exact__finds_what_a_loop_finds_on_gpus(tmp_path: Path, states) -> None:
    cases = {kind: (embeddings_like(kind, 5000, 64), embeddings_like("random", 33, 64)) for kind in KINDS}
    for name, (keys, queries) in {**cases, "states": (states[0], states[1].numpy())}.items():
        store, queries = stored(tmp_path / name, keys), torch.from_numpy(queries)
        scale = float(np.square(keys.astype(float)).sum(1).max())
        for k in (1, 64, 256):
            wanted, _ = by_hand(keys, queries, k)
            for dtype, devices in (("float32", 1), ("bfloat16", 1), ("bfloat16", 2)):
                search = ExactSearch(store, ExactIndex(dtype=dtype), ["cuda"] * devices, segment=2000 * devices)
                distances, ids = search.search(queries, k)
                own = ((keys.astype(float)[ids.numpy()] - queries.double().numpy()[:, None]) ** 2).sum(2)
                for found in (distances, own):
                    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * scale, err_msg=f"{name} {dtype}")
                assert all(len(set(row)) == k for row in ids.tolist())


def test_exact__when_nothing_is_held(tmp_path: Path, states, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stored(tmp_path, states[0])
    held = ExactSearch(store, ExactIndex(), segment=512).search(states[1], 64)
    monkeypatch.setattr("rlm.retrieval.datastore_search.HELD", 0)
    streamed = ExactSearch(store, ExactIndex(), segment=512)
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(held, streamed.search(states[1], 64), strict=True))


def test_faiss_flat__finds_what_a_loop_finds(tmp_path: Path, states) -> None:
    search = open_search(FaissFlat(), stored(tmp_path, states[0]), None, ["cpu"])
    distances, ids = search.search(states[1][:50], 64)
    wanted, wanted_ids = by_hand(states[0], states[1][:50], 64)
    np.testing.assert_allclose(distances, wanted, rtol=1e-3, atol=1e-3)
    assert (ids.numpy() == wanted_ids).mean() > 0.98


def recall(ids: torch.Tensor, wanted: np.ndarray) -> float:
    return float(
        np.mean([len(set(row) & set(true)) / len(true) for row, true in zip(ids.tolist(), wanted, strict=True)])
    )


def test_faiss_flat__of_tight_clusters_far_from_the_origin(tmp_path: Path) -> None:
    keys, queries = tight_clusters(100.0, 1e-3)
    queries = torch.cat([queries, torch.zeros(3, DIM)])  # from there, all clusters are far
    store = stored(tmp_path, keys)
    distances, ids = open_search(FaissFlat(), store, None, ["cpu"]).search(queries, 50)
    wanted, _ = by_hand(keys, queries, 50)
    np.testing.assert_allclose(distances, wanted, rtol=1e-5)
    own = ((keys.astype(float)[ids.numpy()] - queries.double().numpy()[:, None]) ** 2).sum(2)
    np.testing.assert_allclose(own, wanted, rtol=1e-5)


@pytest.mark.parametrize(("rerank", "least"), [(0, 0.55), (1, 0.55), (4, 0.98)])
def test_ivf_pq__finds_most(tmp_path: Path, states, rerank: int, least: float) -> None:
    keys, queries = states
    config, store = FaissIvfPq(lists=16, sub_quantizers=12, probes=8, rerank=rerank), stored(tmp_path, keys)
    distances, ids = FaissSearch(store, config, build_faiss(config, store)).search(queries, 32)
    wanted_ids = by_hand(keys, queries, 32)[1]
    assert recall(ids, wanted_ids) > least
    assert bool((distances.diff(dim=1) >= 0).all())
    own = ((keys.astype(float)[ids.numpy()] - queries.double().numpy()[:, None]) ** 2).sum(2)
    if rerank:
        np.testing.assert_allclose(distances, own, rtol=1e-5, atol=1e-5)
    else:
        assert np.abs(distances.numpy() - own).max() > 1e-2, "quantised distances are not those of the keys"


def test_ivf_pq__with_distances_from_the_full_keys_orders_what_the_quantised_found(tmp_path: Path, states) -> None:
    keys, queries = states
    store, built = stored(tmp_path, keys), FaissIvfPq(lists=16, sub_quantizers=12, probes=8, rerank=0)
    index = build_faiss(built, store)
    quantised, again = (
        FaissSearch(store, config, index).search(queries, 32) for config in (built, replace(built, rerank=1))
    )
    assert [set(row) for row in quantised[1].tolist()] == [set(row) for row in again[1].tolist()]
    assert recall(again[1][:, :8], by_hand(keys, queries, 8)[1]) > recall(
        quantised[1][:, :8], by_hand(keys, queries, 8)[1]
    )


def test_ivf_pq__when_saved(tmp_path: Path, states) -> None:
    store = stored(tmp_path / "store", states[0])
    config = FaissIvfPq(lists=16, sub_quantizers=12, probes=2, rerank=1)
    index = build_faiss(config, store)
    save_faiss(index, tmp_path)
    before = FaissSearch(store, config, index).search(states[1], 900)  # more than two lists hold
    after = open_search(config, store, tmp_path, ["cpu"]).search(states[1], 900)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert bool((before[1] >= 0).all())
    with pytest.raises(ValueError, match="an index of 3000 keys of width 24, the datastore has 2000"):
        FaissSearch(stored(tmp_path / "less", states[0][:2000]), config, index)


def test_ivf_pq__when_it_cannot_be_built(tmp_path: Path, states) -> None:
    with pytest.raises(ValueError, match="sub_quantizers: 7 do not divide the keys' width of 24"):
        build_faiss(FaissIvfPq(sub_quantizers=7), stored(tmp_path / "a", states[0]))
    with pytest.raises(ValueError, match="at least 256 keys to learn from, not 100"):
        build_faiss(FaissIvfPq(), stored(tmp_path / "b", states[0][:100]))


@pytest.mark.parametrize("config", [ExactIndex(), FaissFlat()])
def test_search__when_it_cannot_be(tmp_path: Path, states, config) -> None:
    search = open_search(config, stored(tmp_path, states[0][:50]), None, ["cpu"])
    for k in (0, 51):
        with pytest.raises(ValueError, match=f"k = {k} of a datastore of 50 keys; ask for 1 to 50"):
            search.search(states[1], k)
    with pytest.raises(ValueError, match=r"queries are \(2, 5\), the datastore's keys have a width of 24"):
        search.search(torch.zeros(2, 5), 1)
    with pytest.raises(ValueError, match="NaN"):
        search.search(torch.full((2, DIM), torch.nan), 1)
