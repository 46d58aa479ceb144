"""kNN-LM's evaluation against a loop in float64 over the whole datastore."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlm.data.documents import Documents
from rlm.models.knn_config import CacheConfig, KnnConfig, KnnEvaluateConfig
from rlm.retrieval.datastore import Datastore
from rlm.retrieval.knn_table import KnnTable
from rlm.stages import knn_evaluate
from tests.stages.knn_world import K, KnnWorld, made, searched, write_knn_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> KnnWorld:
    return write_knn_world(tmp_path_factory.mktemp("knn"))


def evaluated(folder: Path, inputs: dict[str, Path], **settings) -> tuple[list[dict], np.ndarray, dict]:
    """Lines of documents, log p of tokens, what was chosen."""
    made(folder, knn_evaluate, KnnEvaluateConfig(**settings), inputs)
    lines = [json.loads(line) for line in (folder / "documents.jsonl").read_text().splitlines()]
    return lines, np.load(folder / "log_probabilities.npy"), json.loads((folder / "chosen.json").read_text())


def fixed(**changes) -> KnnConfig:
    return KnnConfig(**{"k": K, "temperature": 20.0, "weight": 0.4, **changes})


def arrays(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    store = Datastore.open(folder / "datastore")
    ids = np.arange(len(store))
    return store.take(ids).astype(float), store.take_values(ids)


def test_search__finds_what_a_loop_over_the_datastore_finds(world: KnnWorld) -> None:
    table = KnnTable.open(world.search)
    (queries, _), (keys, values) = arrays(world.queries), arrays(world.datastore)
    for number in range(0, len(queries), 37):
        distances = ((keys - queries[number]) ** 2).sum(1)
        ids = np.argsort(distances, kind="stable")[:K]
        np.testing.assert_allclose(table.distances[number], distances[ids], rtol=1e-4, atol=1e-5)
        assert set(table.ids[number].tolist()) == set(ids.tolist())
        np.testing.assert_array_equal(table.tokens[number], values[table.ids[number]])


def test_evaluate__is_a_loop_over_the_whole_datastore(world: KnnWorld, tmp_path: Path) -> None:
    lines, found, _ = evaluated(tmp_path / "e", world.evaluation, knn=fixed())
    (queries, targets), (keys, values) = arrays(world.queries), arrays(world.datastore)
    lm, wanted = np.load(world.queries / "lm.npy"), []
    for query, target, log_p in zip(queries, targets, lm, strict=True):
        distances = ((keys - query) ** 2).sum(1)
        ids = np.argsort(distances, kind="stable")[:K]
        weights = np.exp(-(distances[ids] - distances[ids[0]]) / 20.0)
        knn = weights[values[ids] == target].sum() / weights.sum()
        wanted.append(math.log(0.4 * knn + 0.6 * math.exp(log_p)))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    documents = Documents.open(world.measured)
    assert [line["id"] for line in lines] == [documents.id(number) for number in range(len(documents))]
    np.testing.assert_array_equal([line["tokens"] for line in lines], documents.tokens.lengths - 1)
    np.testing.assert_array_equal([line["bytes"] for line in lines], documents.bytes)
    ends = np.cumsum([line["tokens"] for line in lines])
    starts = [0, *ends[:-1]]
    for line, start, end in zip(lines, starts, ends, strict=True):
        np.testing.assert_allclose(line["nats"], -math.fsum(wanted[start:end]), rtol=1e-4)
        assert abs(line["helped"] - int((np.array(wanted[start:end]) > lm[start:end]).sum())) <= 1


def test_evaluate__with_weight_0_is_the_language_model_bit_for_bit(world: KnnWorld, tmp_path: Path) -> None:
    lm = np.load(world.queries / "lm.npy")
    alone = {"text": world.measured, "queries": world.queries}
    lines, found, _ = evaluated(tmp_path / "alone", alone, knn=None)
    for name, settings in {
        "knn": {"knn": fixed(weight=0.0)},
        "both": {"knn": fixed(weight=0.0), "cache": CacheConfig(flatness=0.1, weight=0.0)},
    }.items():
        again, same, _ = evaluated(tmp_path / name, world.evaluation, **settings)
        np.testing.assert_array_equal(same, lm)
        assert [line["nats"] for line in again] == [line["nats"] for line in lines]
        assert all(line["helped"] == 0 for line in again)
    np.testing.assert_array_equal(found, lm)


def test_evaluate__of_a_text_that_is_its_own_datastore(world: KnnWorld, tmp_path: Path) -> None:
    # as many as documents: each has the same state at its start, whatever follows
    k = len(Documents.open(world.measured))
    own = searched(tmp_path / "own", world.queries, world.queries, k=k)
    inputs = {**world.evaluation, "search": own, "dev_search": own, "dev_queries": world.queries}
    inputs["dev_text"] = world.measured
    table, targets = KnnTable.open(own), arrays(world.queries)[1]
    assert (table.distances[:, 0] == 0).all()
    # the start of every document is the same state, followed by different tokens
    alone = table.distances[:, 1] > 1e-3
    assert alone.mean() > 0.8
    np.testing.assert_array_equal(table.tokens[alone, 0], targets[alone])
    settings = fixed(k=k, temperature=1e-5, weight=1.0)
    _, found, _ = evaluated(tmp_path / "e", inputs, knn=settings)
    np.testing.assert_allclose(found[alone], 0, atol=1e-6)
    assert np.isfinite(found).all() and (found[~alone] < -0.1).any()
    with pytest.raises(ValueError, match="tokens have no neighbour with the token that follows, and a weight of 1"):
        evaluated(tmp_path / "few", inputs, knn=replace(settings, k=1))


def test_evaluate__tunes_on_the_development_text_alone(world: KnnWorld, tmp_path: Path) -> None:
    _, _, chosen = evaluated(tmp_path / "tuned", world.evaluation, knn=KnnConfig())
    grid = json.loads((tmp_path / "tuned" / "grid.json").read_text())
    found = np.array(grid["perplexity"])
    assert found.shape == (len(grid["k"]), 5, 10) and found.shape[0] >= 4
    place = np.unravel_index(found.argmin(), found.shape)
    wanted = {name: grid[name][at] for name, at in zip(("k", "temperature", "weight"), place, strict=True)}
    keys = KnnTable.open(world.search).described["keys"]
    assert chosen == {**wanted, "cache_flatness": 0.0, "cache_weight": 0.0, "keys": keys}
    # one cell, computed alone on the development text
    of_dev = {
        "text": world.tuned,
        "queries": world.dev_queries,
        "search": world.dev_search,
        "datastore_text": world.text,
    }
    settings = KnnConfig(k=grid["k"][2], temperature=grid["temperature"][3], weight=grid["weight"][4])
    lines, _, _ = evaluated(tmp_path / "cell", of_dev, knn=settings)
    nats, tokens = (sum(line[name] for line in lines) for name in ("nats", "tokens"))
    np.testing.assert_allclose(math.exp(nats / tokens), found[2, 3, 4], rtol=1e-9)
    # another test text changes nothing of what is chosen
    other = {**world.evaluation, **of_dev}
    assert evaluated(tmp_path / "other", other, knn=KnnConfig())[2] == chosen


def test_evaluate__with_a_cache_and_with_a_gate(world: KnnWorld, tmp_path: Path) -> None:
    lm = np.load(world.queries / "lm.npy").astype(float)
    _, cached, chosen = evaluated(tmp_path / "cache", world.evaluation, knn=None, cache=CacheConfig())
    assert chosen["cache_flatness"] > 0 and chosen["cache_weight"] > 0 and chosen["k"] == 0
    assert cached.mean() > lm.mean(), "names return"
    lines, gated, _ = evaluated(tmp_path / "gate", world.evaluation, knn=KnnConfig(weight="learned"))
    _, tuned, _ = evaluated(tmp_path / "tuned", world.evaluation, knn=KnnConfig())
    assert len({line["weight"] for line in lines}) > 1 and all(0 < line["weight"] < 1 for line in lines)
    assert tuned.mean() > lm.mean()
    assert gated.mean() > tuned.mean() - 0.05


def test_evaluate__when_more_neighbours_are_read_than_were_searched(world: KnnWorld, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"k = {K + 1} neighbours, {K} were searched; raise `search.k`"):
        evaluated(tmp_path / "e", world.evaluation, knn=fixed(k=K + 1))


def test_evaluate__when_a_token_is_impossible(world: KnnWorld, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weight of 1 makes them impossible.*write a weight below 1"):
        evaluated(tmp_path / "e", world.evaluation, knn=fixed(k=1, weight=1.0))
