"""Perplexity of documents, against each token predicted by hand, one window at a time."""

import json
from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
import torch

from rlm.data.chunks import Chunks
from rlm.data.documents import Documents
from rlm.models.retro import Neighbours
from rlm.models.retro_config import PerplexityConfig
from rlm.models.retro_training import load_retro, save_retro
from rlm.retrieval.neighbours import NeighbourTable
from rlm.stages import perplexity
from rlm.stages.columns import bits_per_byte
from rlm.stages.columns import perplexity as perplexity_column
from rlm.stages.perplexity import NATS
from rlm.stages.retro_train import WEIGHTS
from tests.stages.retro_world import MODEL, WINDOW, M, train, write_retro_world
from tests.worlds import Surroundings

SETTINGS = PerplexityConfig(tokens=WINDOW, batch_size=5, precision="float32")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_retro_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    return train(tmp_path_factory.mktemp("model") / "run", world.training)


def measure(folder, world, trained, settings, model=MODEL, inputs=None):
    folder.mkdir(parents=True)
    inputs = inputs or world.evaluation(trained)
    metrics = perplexity.run({"model": model, "evaluate": settings}, inputs, folder, Surroundings())
    return metrics, [json.loads(line) for line in (folder / "documents.jsonl").read_text().splitlines()]


def by_hand(world, trained, settings):
    """Nats of each document's tokens: every window on its own, unpadded, predicts what no window before it did."""
    documents = Documents.open(world.measured)
    model = load_retro(MODEL, documents.vocab_size, trained / WEIGHTS)
    chunks, corpus = Chunks(documents, M), Chunks(Documents.open(world.corpus), M)
    table = NeighbourTable.open(world.measured_neighbours, 3)
    for document in range(len(documents)):
        tokens = torch.from_numpy(documents.tokens.take(np.array([document])).values.astype(np.int64))
        nats, predicted, start = [0.0], 1, 0
        while predicted < len(tokens):
            ids = tokens[start : start + settings.tokens]
            ended = len(ids) // M
            neighbours = None
            if settings.k and ended:
                numbers = chunks.first[document] + start // M + np.arange(ended)
                found, mask = corpus.take(np.asarray(table.ids[numbers])[:, : settings.k], 2)
                neighbours = Neighbours(torch.from_numpy(found)[None], torch.from_numpy(mask)[None])
            with torch.no_grad():
                log_p = model(ids[None], neighbours)[0].double().log_softmax(-1)
            for place in range(predicted, min(start + settings.tokens + 1, len(tokens))):
                nats.append(-float(log_p[place - 1 - start, tokens[place]]))
            predicted = min(start + settings.tokens + 1, len(tokens))
            start += settings.stride or settings.tokens // M * M
        yield nats


@pytest.mark.parametrize("settings", [{"k": 0}, {"k": 1}, {"k": 3}, {"k": 2, "stride": M}, {"k": 0, "stride": 2 * M}])
def test_run__predicts_every_token_once(world, trained, tmp_path, settings) -> None:
    settings = replace(SETTINGS, **settings)
    metrics, lines = measure(tmp_path / "run", world, trained, settings)
    expected = list(by_hand(world, trained, settings))
    assert len(lines) == len(expected) > 3
    for line, nats in zip(lines, expected, strict=True):
        assert line["nats"] == pytest.approx(sum(nats), rel=1e-5)
        assert line["tokens"] == len(nats) - 1
    of_tokens = np.load(tmp_path / "run" / NATS)
    assert of_tokens.dtype == np.float32
    np.testing.assert_allclose(of_tokens, np.concatenate(expected), rtol=1e-4, atol=1e-5)
    documents = Documents.open(world.measured)
    assert [line["id"] for line in lines] == [documents.id(number) for number in range(len(documents))]
    assert [line["bytes"] for line in lines] == documents.bytes.tolist()
    nats, tokens = sum(map(sum, expected)), sum(len(nats) - 1 for nats in expected)
    assert metrics["bits_per_byte"] == pytest.approx(nats / log(2) / documents.bytes.sum(), rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(exp(nats / tokens), rel=1e-5)


def test_run__without_neighbours_is_the_decoder_alone_exactly(world, trained, tmp_path) -> None:
    """RETRO[Off]: encoder and cross-attention play no part."""
    off, lines = measure(tmp_path / "off", world, trained, replace(SETTINGS, k=0))
    alone = replace(MODEL, cca_layers=())
    model = load_retro(MODEL, Documents.open(world.text).vocab_size, trained / WEIGHTS)
    model.encoder, model.cross_attentions, model.cca_layers = None, torch.nn.ModuleList(), ()
    (tmp_path / "alone").mkdir()
    save_retro(model, tmp_path / "alone" / WEIGHTS)
    inputs = {"text": world.measured, "model": tmp_path / "alone"}
    decoder, others = measure(tmp_path / "decoder", world, trained, replace(SETTINGS, k=0), alone, inputs)
    assert (off, lines) == (decoder, others)
    on, _ = measure(tmp_path / "on", world, trained, replace(SETTINGS, k=1))
    assert on["bits_per_byte"] != off["bits_per_byte"]


def test_run__writes_what_the_columns_read(world, trained, tmp_path) -> None:
    metrics, lines = measure(tmp_path / "run", world, trained, SETTINGS)
    for column in (bits_per_byte(role="perplexity"), perplexity_column(role="perplexity")):
        values, weights = zip(*map(column.read, lines), strict=True)
        figure = sum(values) / sum(weights)
        assert metrics[column.name] == pytest.approx(exp(figure) if column.aggregate == "exp_ratio" else figure)


def test_run__refuses_more_neighbours_than_were_computed(world, trained, tmp_path) -> None:
    with pytest.raises(ValueError, match="k = 4 neighbours .* which holds 3"):
        measure(tmp_path / "run", world, trained, replace(SETTINGS, k=4))
