"""Bits per byte by overlap, against every chunk compared with each of its neighbours by difflib."""

import json
import shutil
from difflib import SequenceMatcher
from math import log

import numpy as np
import pytest

from rlm.data.chunks import Chunks
from rlm.data.documents import Documents
from rlm.models.retro_config import LeakageConfig, PerplexityConfig
from rlm.retrieval.config import NeighboursConfig
from rlm.retrieval.neighbours import NeighbourTable
from rlm.stages import leakage, perplexity
from rlm.stages.columns import bits_per_byte, leakage_columns
from rlm.stages.perplexity import NATS
from tests.stages.retro_world import MODEL, WINDOW, M, RetroWorld, train, write_retro_world
from tests.worlds import Surroundings

THRESHOLDS = (12.5, 25.0, 40.0, 100.0)
K = 3


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> RetroWorld:
    return write_retro_world(tmp_path_factory.mktemp("world"), K)


@pytest.fixture(scope="module")
def predicted(world, tmp_path_factory) -> dict[int, tuple]:
    """What the stage `perplexity` gives with 2 neighbours and with none: folder and metrics."""
    folder = tmp_path_factory.mktemp("predicted")
    model = train(folder / "model", world.training)
    found = {}
    for k in (0, 2):
        (folder / str(k)).mkdir()
        config = {"model": MODEL, "evaluate": PerplexityConfig(tokens=WINDOW, k=k, precision="float32")}
        found[k] = folder / str(k), perplexity.run(config, world.evaluation(model), folder / str(k), Surroundings())
    return found


def measure(folder, world, predicted, thresholds=THRESHOLDS, k=K):
    folder.mkdir()
    config = {"neighbours": NeighboursConfig(k=k), "leakage": LeakageConfig(thresholds=thresholds)}
    inputs = {"text": world.measured, "corpus": world.corpus, "neighbours": world.measured_neighbours}
    metrics = leakage.run(config, {**inputs, "perplexity": predicted}, folder, Surroundings())
    return metrics, [json.loads(line) for line in (folder / "leakage.jsonl").read_text().splitlines()]


def by_hand(world, predicted, thresholds=THRESHOLDS, k=K):
    """Nats and bytes of each document by threshold, from its text's own bytes."""
    documents, corpus = Documents.open(world.measured), Documents.open(world.corpus)
    chunks, table, nats = (
        Chunks(corpus, M),
        NeighbourTable.open(world.measured_neighbours, k),
        np.load(predicted / NATS),
    )
    number, place = 0, 0
    for document in range(len(documents)):
        tokens, sums = documents.tokens[document].tolist(), np.zeros((2, len(thresholds)))
        for start in range(0, len(tokens), M):
            own = tokens[max(start, 1) : start + M]  # the start token is no text
            longest = 0
            for neighbour in table.ids[number]:
                of = int(chunks.document_of(neighbour))
                first = int(neighbour - chunks.first[of]) * M
                found = corpus.tokens[of][first : first + 2 * M].tolist()
                longest = max(longest, SequenceMatcher(None, own, found, autojunk=False).find_longest_match().size)
            text = "".join(documents.tokenizer.convert_ids_to_tokens(own))  # a character for each byte
            kept = [100 * longest / max(len(own), 1) <= threshold for threshold in thresholds]
            needed = float(nats[place + start : place + min(start + M, len(tokens))].astype(float).sum())
            sums += np.outer([needed, len(text)], kept)
            number += 1
        place += len(tokens)
        yield sums


@pytest.mark.parametrize("at_once", [1, leakage.COMPARED_AT_ONCE])
def test_run__keeps_chunks_up_to_each_threshold(world, predicted, tmp_path, monkeypatch, at_once) -> None:
    monkeypatch.setattr(leakage, "COMPARED_AT_ONCE", at_once)
    folder, _ = predicted[2]
    metrics, lines = measure(tmp_path / "run", world, folder)
    expected = list(by_hand(world, folder))
    documents = Documents.open(world.measured)
    assert [line["id"] for line in lines] == [documents.id(number) for number in range(len(documents))]
    np.testing.assert_allclose([line["nats"] for line in lines], [nats for nats, _ in expected], rtol=1e-9)
    assert [line["bytes"] for line in lines] == [sizes.tolist() for _, sizes in expected]
    nats, sizes = sum(expected)
    assert 0 < sizes[0] < sizes[1] < sizes[2] < sizes[3], "the thresholds tell chunks apart"
    for place, threshold in enumerate(("12.5", "25", "40", "100")):
        assert metrics[f"bits_per_byte@{threshold}"] == pytest.approx(nats[place] / log(2) / sizes[place])
        assert metrics[f"bytes_kept@{threshold}"] == pytest.approx(100 * sizes[place] / documents.bytes.sum())


@pytest.mark.parametrize("k", [0, 2])
def test_run__without_a_filter_is_the_bits_per_byte_of_the_text(world, predicted, tmp_path, k) -> None:
    folder, measured = predicted[k]
    metrics, lines = measure(tmp_path / "run", world, folder)
    assert metrics["bits_per_byte@100"] == pytest.approx(measured["bits_per_byte"], rel=1e-12)
    assert metrics["bytes_kept@100"] == 100
    of_all = [json.loads(line) for line in (folder / "documents.jsonl").read_text().splitlines()]
    column, filtered = bits_per_byte(role=""), leakage_columns(THRESHOLDS, role="")[-2]
    assert filtered.name == "bits_per_byte@100"
    np.testing.assert_allclose([*map(filtered.read, lines)], [*map(column.read, of_all)], rtol=1e-12)


def test_run__of_rows_that_read_other_neighbours_keeps_the_same_bytes(world, predicted, tmp_path) -> None:
    (_, off), (_, on) = (measure(tmp_path / str(k), world, predicted[k][0]) for k in (0, 2))
    assert [line["bytes"] for line in off] == [line["bytes"] for line in on]
    assert [line["nats"] for line in off] != [line["nats"] for line in on]


def test_run__counts_all_neighbours_it_is_told_of(world, predicted, tmp_path) -> None:
    few, _ = measure(tmp_path / "1", world, predicted[2][0], k=1)
    many, _ = measure(tmp_path / "3", world, predicted[2][0])
    assert few["mean_overlap"] < many["mean_overlap"]
    assert few["bytes_kept@25"] > many["bytes_kept@25"]


def test_run__of_a_text_that_is_its_own_neighbour_keeps_nothing(world, predicted, tmp_path) -> None:
    """No bits per byte of no text."""
    copied = tmp_path / "neighbours-copied"
    shutil.copytree(world.measured_neighbours, copied)
    chunks = Chunks(Documents.open(world.measured), M)
    np.save(copied / "ids.npy", np.repeat(np.arange(len(chunks))[:, None], K, 1))
    described = json.loads((copied / "neighbours.json").read_text())
    described["keys"]["corpus"] = world.measured.name
    (copied / "neighbours.json").write_text(json.dumps(described))
    own = RetroWorld(world.text, world.measured, world.measured, world.neighbours, copied)
    metrics, lines = measure(tmp_path / "run", own, predicted[0][0])
    assert metrics["mean_overlap"] == 100 and metrics["bytes_kept@40"] == 0 and metrics["bytes_kept@100"] == 100
    assert "bits_per_byte@40" not in metrics and all(line["bytes"][:3] == [0, 0, 0] for line in lines)


def test_run__writes_what_the_columns_read(world, predicted, tmp_path) -> None:
    metrics, lines = measure(tmp_path / "run", world, predicted[2][0])
    columns = leakage_columns(THRESHOLDS, role="leakage")
    assert len(columns) == 2 * len(THRESHOLDS) == len({column.label for column in columns})
    for column in columns:
        values, weights = zip(*map(column.read, lines), strict=True)
        assert metrics[column.name] == pytest.approx(sum(values) / sum(weights))


def test_run__refuses_neighbours_of_another_corpus(world, predicted, tmp_path) -> None:
    other = RetroWorld(world.text, world.measured, world.text, world.neighbours, world.measured_neighbours)
    with pytest.raises(ValueError, match="neighbours of another corpus"):
        measure(tmp_path / "run", other, predicted[0][0])
