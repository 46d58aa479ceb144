"""Keys of a text: every token once, with the token that follows it, never one of another document."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rlm.config import Runtime
from rlm.data.config import DocumentsConfig, TrainedByteTokenizer
from rlm.data.documents import Documents
from rlm.errors import StageError
from rlm.models.language_model import open_language_model
from rlm.models.retro_training import load_retro
from rlm.retrieval.datastore import Datastore
from rlm.stages import datastore_shares
from rlm.stages import documents as documents_stage
from rlm.stages.knn_examples import key_places
from rlm.stages.retro_train import WEIGHTS
from tests.stages.knn_world import MODEL, NEWS, STORE, KnnWorld, made, passed, write_knn_world
from tests.worlds import Surroundings

OTHER_TOKENIZER = {"documents": DocumentsConfig(source=NEWS), "tokenizer": TrainedByteTokenizer(vocab_size=500)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> KnnWorld:
    return write_knn_world(tmp_path_factory.mktemp("knn"))


def model_of(world: KnnWorld):
    return open_language_model(MODEL, Documents.open(world.text).vocab_size, world.model / WEIGHTS)


def context_of(position: int) -> int:
    """First token that a prediction at a position of its document sees."""
    if position < STORE.tokens:
        return 0
    windows = -(-(position + 1 - STORE.tokens) // STORE.stride)
    return windows * STORE.stride


def test_values__are_the_next_tokens_of_each_document(world: KnnWorld) -> None:
    documents, store = Documents.open(world.text), Datastore.open(world.datastore / "datastore")
    wanted = np.concatenate([documents.tokens[number][1:] for number in range(len(documents))])
    np.testing.assert_array_equal(store.take_values(np.arange(len(store))), wanted)
    assert int(key_places(documents)[-1]) == len(store) == len(documents.tokens.values) - len(documents)


def test_keys__are_the_states_after_the_tokens_before(world: KnnWorld) -> None:
    documents, store, model = Documents.open(world.text), Datastore.open(world.datastore / "datastore"), model_of(world)
    places = key_places(documents)
    lengths = documents.tokens.lengths
    for number in (0, int(lengths.argmax()), int(lengths.argmin()), len(documents) - 1):
        tokens = torch.from_numpy(documents.tokens[number].astype(np.int64))
        for position in range(len(tokens) - 1):
            read = tokens[context_of(position) : position + 1]
            with torch.inference_mode(), model.keys("ffn_input") as seen:
                model.hidden(read[None])
            key = store.take(np.array([places[number] + position]))[0]
            np.testing.assert_allclose(key, seen[0][0, -1], rtol=1e-3, atol=1e-4)
    assert lengths.max() > STORE.tokens + STORE.stride, "some document has three windows"


def test_spoken__is_what_the_model_says(world: KnnWorld) -> None:
    documents, model = Documents.open(world.measured), model_of(world)
    found = {name: np.load(world.queries / f"{name}.npy") for name in ("lm", "best", "entropy")}
    places, longest = key_places(documents), int(documents.tokens.lengths.argmax())
    tokens = torch.from_numpy(documents.tokens[longest].astype(np.int64))
    for position in range(len(tokens) - 1):
        with torch.inference_mode():
            hidden = model.hidden(tokens[None, context_of(position) : position + 1])
            said = F.log_softmax(model.logits(hidden)[0, -1].double(), -1)
        at = places[longest] + position
        np.testing.assert_allclose(found["lm"][at], said[tokens[position + 1]], rtol=1e-4)
        np.testing.assert_allclose(found["best"][at], said.max(), rtol=1e-4)
        np.testing.assert_allclose(found["entropy"][at], -(said.exp() * said).sum(), rtol=1e-4)
    assert not (world.datastore / "lm.npy").exists()


def test_hidden__are_those_that_the_model_was_trained_with(world: KnnWorld) -> None:
    ids = torch.randint(0, 300, (2, 12))
    model, retro = model_of(world), load_retro(MODEL, Documents.open(world.text).vocab_size, world.model / WEIGHTS)
    with torch.inference_mode():
        assert torch.equal(model.logits(model.hidden(ids)), retro(ids, None))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_datastore__does_not_depend_on_the_batches(world: KnnWorld, tmp_path: Path, batch_size: int) -> None:
    again = passed(tmp_path / "again", world.text, world.model, settings=replace(STORE, batch_size=batch_size))
    one, other = (Datastore.open(folder / "datastore") for folder in (world.datastore, again))
    ids = np.arange(len(one))
    np.testing.assert_array_equal(one.take_values(ids), other.take_values(ids))
    np.testing.assert_allclose(one.take(ids), other.take(ids), atol=1e-4)


class Killed(Surroundings):
    """Dies at the second progress report."""

    def progress(self, done, total, **shown):
        super().progress(done, total)
        if len(self.shown) == 2:
            raise KeyboardInterrupt


def test_datastore__when_killed_goes_on(world: KnnWorld, tmp_path: Path) -> None:
    def write(name: str, context: Surroundings) -> Path:
        settings = replace(STORE, batch_size=1)
        return passed(tmp_path / name, world.measured, world.model, spoken=True, settings=settings, context=context)

    with pytest.raises(KeyboardInterrupt):
        write("killed", Killed())
    goes_on, whole = Surroundings(), Surroundings()
    write("killed", goes_on)
    undisturbed = write("undisturbed", whole)
    assert len(goes_on.shown) == len(whole.shown) - 2 > 0
    for path in undisturbed.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "killed" / path.relative_to(undisturbed)).read_bytes(), path.name


@pytest.mark.slow
def test_datastore__of_two_processes_is_that_of_one(
    world: KnnWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datastore_shares, "SHARD", 700)
    two = Surroundings(runtime=Runtime(device="cpu", devices=2))
    for name, context in (("one", Surroundings()), ("two", two)):
        passed(tmp_path / name, world.text, world.model, context=context)
    assert len(list((tmp_path / "two" / "datastore").glob("keys-*.bin"))) > 3
    for path in (tmp_path / "one" / "datastore").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "datastore" / path.name).read_bytes(), path.name
    (tmp_path / "two" / "datastore" / "datastore.json").unlink()
    again = replace(two, runtime=Runtime(device="cpu", devices=2))
    passed(tmp_path / "two", world.text, world.model, context=again)  # which the first processes had finished
    Datastore.open(tmp_path / "two" / "datastore")
    with pytest.raises(StageError, match="size mismatch|vocabulary"):
        other = made(tmp_path / "other", documents_stage, OTHER_TOKENIZER, {})
        passed(tmp_path / "store", other, world.model, context=two)


def test_datastore__when_the_text_is_of_another_model(world: KnnWorld, tmp_path: Path) -> None:
    other = made(tmp_path / "other", documents_stage, OTHER_TOKENIZER, {})
    with pytest.raises((ValueError, RuntimeError), match="size mismatch|vocabulary"):
        passed(tmp_path / "store", other, world.model)
