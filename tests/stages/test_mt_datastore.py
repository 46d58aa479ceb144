"""Datastores of translations: each token of each pair once, beside the state that predicts it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rlm.config import Runtime
from rlm.data.parallel import ParallelText
from rlm.data.tokens import Ragged
from rlm.models.translation import DecoderStates, load_translator
from rlm.models.translation_config import TranslationDatastore
from rlm.retrieval.datastore import Datastore
from rlm.retrieval.datastore_writer import DatastoreWriter
from rlm.stages import datastore_shares, mt_datastore
from rlm.stages.mt_train import MODEL as SAVED
from tests.stages.mt_world import MODEL, datastore, write_translation_world
from tests.worlds import Surroundings


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_translation_world(tmp_path_factory.mktemp("world"))


def contents(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    store = Datastore.open(folder / "datastore")
    return store.take(np.arange(len(store))), store.take_values(np.arange(len(store)))


def test_run__pairs_each_state_with_the_token_that_follows(world, tmp_path) -> None:
    """One pair at a time, without padding, in float32."""
    keys, values = contents(
        datastore(tmp_path / "float32", world.law, world.model, TranslationDatastore(dtype="float32"))
    )
    text = ParallelText.open(world.law)
    assert len(values) == len(text.target.values), "every token of every translation, ends of sentences included"
    model = load_translator(MODEL, world.model / SAVED)
    order = np.argsort(-(text.source.lengths + text.target.lengths), kind="stable")
    place = 0
    with DecoderStates(model) as states, torch.no_grad():
        for pair in order[:40].tolist():
            target = torch.from_numpy(text.target[pair].astype(np.int64))[None]
            model(
                input_ids=torch.from_numpy(text.source[pair].astype(np.int64))[None],
                decoder_input_ids=torch.cat([torch.tensor([[text.pad]]), target[:, :-1]], 1),
            )
            count = target.shape[1]
            assert values[place : place + count].tolist() == target[0].tolist()
            np.testing.assert_allclose(keys[place : place + count], states.last[0].numpy(), atol=2e-5)
            place += count


def test_run__does_not_depend_on_the_batches_or_the_type_but_for_rounding(world, tmp_path) -> None:
    keys, values = contents(world.datastore)
    settings = TranslationDatastore(batch_size=7, dtype="float32")
    others, same = contents(datastore(tmp_path / "other", world.law, world.model, settings))
    assert values.tolist() == same.tolist() and (keys.dtype, others.dtype) == (np.float16, np.float32)
    np.testing.assert_allclose(keys, others, atol=5e-3)


def test_run__goes_on_where_it_was_killed(world, tmp_path, monkeypatch) -> None:
    append, calls = DatastoreWriter.append, []

    def killed(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        append(self, *arguments)

    monkeypatch.setattr(DatastoreWriter, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        datastore(tmp_path / "run", world.law, world.model)
    first = len(calls)
    datastore(tmp_path / "run", world.law, world.model)
    batches = -(-len(ParallelText.open(world.law)) // TranslationDatastore().batch_size)
    # the first batch is read again, since it tells the width; the second was written
    assert first == 3 and len(calls) - first == batches - 1
    for one, other in zip(contents(tmp_path / "run"), contents(world.datastore), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.slow
def test_run__of_two_processes_is_that_of_one(world, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datastore_shares, "SHARD", 500)
    for name, devices in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        config = {"model": MODEL, "datastore": TranslationDatastore(batch_size=16)}
        context = Surroundings(runtime=Runtime(device="cpu", devices=devices))
        mt_datastore.run(config, {"text": world.law, "model": world.model}, tmp_path / name, context)
    for one, other in zip(contents(tmp_path / "one"), contents(tmp_path / "two"), strict=True):
        assert np.array_equal(one, other)


def test_run__of_keys_by_another_name(world, tmp_path) -> None:
    output, _ = contents(datastore(tmp_path / "output", world.law, world.model, TranslationDatastore(key="output")))
    assert not np.allclose(output[:50], contents(world.datastore)[0][:50], atol=0.05)


def test_open__refuses_the_datastore_of_another_model_or_key(world) -> None:
    folder = world.datastore / "datastore"
    Datastore.open(folder, model=world.model.name, key="ffn_input", text=world.law.name)
    with pytest.raises(ValueError, match="another model .*written with mt_train-model, read with mt_train-other"):
        Datastore.open(folder, model="mt_train-other", key="ffn_input")
    with pytest.raises(ValueError, match="another key .*written with ffn_input, read with output"):
        Datastore.open(folder, model=world.model.name, key="output")


def test_run__reports_progress(world, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    surroundings = Surroundings()
    metrics = mt_datastore.run(
        {"model": MODEL, "datastore": TranslationDatastore()},
        {"text": world.law, "model": world.model},
        tmp_path / "run",
        surroundings,
    )
    total = len(ParallelText.open(world.law).target.values)
    assert surroundings.shown[-1] == (total, total) and metrics == {"keys": total, "pairs": 200}


def test_open_translator__names_the_token_that_the_model_does_not_know(world) -> None:
    tokenizer = ParallelText.open(world.law).tokenizer
    assert tokenizer.add_tokens(["<extra>"]) == 1
    rows = Ragged.from_rows([[len(tokenizer) - 1]])
    text: Any = SimpleNamespace(tokenizer=tokenizer, source=rows, target=rows)
    with pytest.raises(
        ValueError, match=r"has token \d+, '<extra>', which is beyond the model's vocabulary of \d+; remove it"
    ):
        mt_datastore.open_translator(MODEL, {"text": world.law, "model": world.model}, text)
