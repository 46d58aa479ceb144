"""The search of datastores for a text's keys against a loop in float64."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlm.retrieval.config import FaissFlat
from rlm.retrieval.datastore import Datastore
from rlm.retrieval.knn_table import KnnTable
from tests.stages.knn_world import STORE, K, KnnWorld, passed, searched, write_knn_world
from tests.stages.test_datastore import Killed
from tests.worlds import Surroundings


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> KnnWorld:
    return write_knn_world(tmp_path_factory.mktemp("knn"))


def test_run__finds_what_a_loop_finds(world: KnnWorld) -> None:
    (keys, tokens), (queries, _) = (
        (np.concatenate([rows for _, rows in store.slices()]).astype(float), store.take_values(np.arange(len(store))))
        for store in (Datastore.open(folder / "datastore") for folder in (world.datastore, world.queries))
    )
    table = KnnTable.open(world.search)
    for number in range(0, len(queries), 17):
        distances = ((keys - queries[number]) ** 2).sum(1)
        order = np.argsort(distances, kind="stable")[:K]
        np.testing.assert_allclose(table.distances[number], distances[order], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(distances[table.ids[number]], distances[order], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(table.tokens[number], tokens[table.ids[number]])


def test_run__tells_how_fast_it_was(world: KnnWorld) -> None:
    lines = [json.loads(line) for line in (world.search / "speed.jsonl").read_text().splitlines()]
    assert sum(line["tokens"] for line in lines) == len(KnnTable.open(world.search))
    assert all(line["seconds"] > 0 for line in lines)


def test_run__when_k_is_above_the_datastores_size(world: KnnWorld, tmp_path: Path) -> None:
    size = len(Datastore.open(world.datastore / "datastore"))
    with pytest.raises(ValueError, match=f"search.k: {size + 1} neighbours of a datastore of {size} keys; write at mo"):
        searched(tmp_path, world.queries, world.datastore, size + 1)


def test_run__when_killed_goes_on(world: KnnWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlm.retrieval.knn_table.write_knn.__defaults__", (None, 64))
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "killed", world.queries, world.datastore, context=Killed())
    goes_on = Surroundings()
    again = searched(tmp_path / "killed", world.queries, world.datastore, context=goes_on)
    assert goes_on.shown[0][0] == 3 * 64, "after the second block"
    for name in ("distances", "ids", "tokens"):
        np.testing.assert_array_equal(np.load(again / f"{name}.npy"), np.load(world.search / f"{name}.npy"))
    finished = Surroundings()
    searched(tmp_path / "killed", world.queries, world.datastore, context=finished)
    assert finished.shown == [], "nothing is searched again after the last block"
    (again / "ids.npy").write_bytes((again / "ids.npy").read_bytes()[:-8])
    with pytest.raises(ValueError, match="damaged"):
        KnnTable.open(again)


def test_run__when_the_datastore_is_of_something_else(world: KnnWorld, tmp_path: Path) -> None:
    settings = replace(STORE, key="attention_input")
    other = passed(tmp_path / "keys", world.tuned, world.model, settings=settings)
    with pytest.raises(ValueError, match="another key .key: written with attention_input, read with ffn_input"):
        searched(tmp_path / "search", world.queries, other)


def test_run__by_faiss_is_as_exact(world: KnnWorld, tmp_path: Path) -> None:
    flat = KnnTable.open(searched(tmp_path / "flat", world.queries, world.datastore, index=FaissFlat()))
    np.testing.assert_allclose(flat.distances, KnnTable.open(world.search).distances, rtol=1e-2, atol=1e-2)
