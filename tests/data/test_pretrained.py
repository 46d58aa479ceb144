"""Names of checkpoints, and checkpoints that cannot be used: one message that says which, what is wrong, what to do."""

import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, BertModel

from rlm.data.pretrained import (
    description,
    files_at_hand,
    load_config,
    load_model,
    load_tokenizer,
    locate,
    own_folder,
    vocabulary_mistake,
)
from rlm.errors import ConfigError
from tests import checkpoints


@dataclass
class Named:
    name: str
    revision: str | None = None


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return checkpoints.bert_and_gpt2(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


# ---- names ----


def test_own_folder__of_folders_and_names_of_the_hub(saved: Path, monkeypatch) -> None:
    assert own_folder(str(saved / "bert")) == saved / "bert" and locate(str(saved / "bert")) == str(saved / "bert")
    for name in ("gpt2", "google-bert/bert-base-uncased", "Helsinki-NLP/opus-mt-de-en", "a/b.c_d"):
        assert own_folder(name) is None and locate(name) == name
    monkeypatch.setenv("HOME", str(saved))
    assert locate("~/bert") == str(saved / "bert")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *[
            (name, "no such folder, and no name of the hub either")
            for name in ("", "./x", "/x/y", "a/b/c", "a b", "a--b")
        ],
        *[
            (name, "no such folder, and no name of the hub either")
            for name in ("a\0b", "\ud800", "a..b", "é", "x" * 97)
        ],
        ("x" * 300, "no folder that can be read|no such folder"),
        ("~nobody-of-that-name/x", "no folder that can be read"),
    ],
)
def test_own_folder__of_what_is_neither(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        own_folder(name)


def test_own_folder__of_files_and_links(copied: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json` is a file; write the path of a checkpoint's folder"):
        own_folder(str(copied / "bert" / "config.json"))
    (copied / "link").symlink_to(copied / "gone")
    with pytest.raises(ConfigError, match="link` is a link to what is not there"):
        own_folder(str(copied / "link"))
    (copied / "gone").symlink_to(copied / "bert")
    assert own_folder(str(copied / "link")) == copied / "link"


def test_files_at_hand__are_those_of_the_hub_s_cache(saved: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert files_at_hand(Named("some/bert")) is None and description(Named("some/bert")) is None
    cached = tmp_path / "models--some--bert"
    shutil.copytree(saved / "bert", cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    for named in (Named("some/bert"), Named("some/bert", "abc")):
        assert files_at_hand(named) == cached / "snapshots" / "abc"
    assert description(Named("some/bert")).positions == 64
    assert files_at_hand(Named("some/bert", "def")) is None


# ---- loading ----


def load(folder: Path, auto=AutoModelForCausalLM, **options):
    return load_model(auto, Named(str(folder)), "model.name", "gives no model", **options)


def test_load_model__reads_every_weight(saved: Path) -> None:
    model = load(saved / "gpt2")
    weights = load_file(saved / "gpt2" / "model.safetensors")
    assert not model.training and torch.equal(model.transformer.wte.weight, weights["transformer.wte.weight"])
    assert load_config(Named(str(saved / "gpt2")), "f", "x").n_positions == 32
    assert load_tokenizer(Named(str(saved / "gpt2")), "f", "x").eos_token == "<|endoftext|>"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_load_model__refuses_what_is_no_number(number: float, copied: Path) -> None:
    path = copied / "gpt2" / "model.safetensors"
    weights = load_file(path)
    weights["transformer.h.1.ln_1.bias"][3] = number
    save_file(weights, path, {"format": "pt"})
    what = "NaN" if number != number else "infinity"
    message = rf"model\.name: `.*gpt2` holds {what} in its weight `transformer\.h\.1\.ln_1\.bias` \(1 of 16 numbers\)"
    with pytest.raises(ConfigError, match=message):
        load(copied / "gpt2")


def test_load_model__refuses_weights_that_would_stay_random(copied: Path) -> None:
    path = copied / "bert" / "model.safetensors"
    weights = load_file(path)
    lacking = weights.pop("bert.encoder.layer.0.output.dense.weight")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(
        ConfigError, match=r"1 of the \d+ weights of a BertModel are not in it, the first `encoder\.layer"
    ):
        load(copied / "bert", AutoModel, untrained="pooler.")
    save_file(weights | {"bert.encoder.layer.0.output.dense.weight": lacking}, path, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"2 of the \d+ weights of a BertModel are not in it, the first `pooler\."):
        load(copied / "bert", BertModel)
    assert isinstance(load(copied / "bert", BertModel, untrained="pooler."), BertModel)


def remove(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def shorten(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:9000])


def mutate(folder: Path) -> None:
    checkpoints.change(folder / "config.json", n_embd=32)


def pickled(folder: Path) -> None:
    remove(folder)
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"transformer.wte.weight": Path("/x")}, file)  # which weights_only refuses to make


def garbled(folder: Path) -> None:
    remove(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02garbled" * 99)


def unknown(folder: Path) -> None:
    checkpoints.change(folder / "config.json", model_type="perceptron")


def of_another_type(folder: Path) -> None:
    checkpoints.change(folder / "config.json", n_layer="two")


def own_code(folder: Path) -> None:
    checkpoints.change(folder / "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config"})


@pytest.mark.parametrize(
    "harm",
    [remove, shorten, mutate, pickled, garbled, unknown, of_another_type, own_code],
    ids=lambda harm: harm.__name__,
)
def test_load_model__explains_what_libraries_raise(harm, copied: Path) -> None:
    harm(copied / "gpt2")
    with pytest.raises(ConfigError, match=r"model\.name: `.*gpt2` gives no model.*download it again") as raised:
        load(copied / "gpt2")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("content", ["", "{}", '{"version": "1.0", "model": {"type": "BPE"}}', '{"model": 3', "\0"])
def test_load_tokenizer__explains_what_libraries_raise(content: str, copied: Path) -> None:
    (copied / "gpt2" / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=r"tokenizer\.name: `.*gpt2` gives none.*download it again") as raised:
        load_tokenizer(Named(str(copied / "gpt2")), "tokenizer.name", "gives none")
    assert len(str(raised.value).splitlines()) == 1


# ---- vocabularies ----


def test_vocabulary_mistake__names_the_tokens_that_were_added(copied: Path) -> None:
    named, size = Named(str(copied / "gpt2")), 29
    assert vocabulary_mistake(named, size, size) is None
    assert vocabulary_mistake(named, 32, size) is None, "the table of embeddings is padded"
    checkpoints.add_token(copied / "gpt2")
    found = vocabulary_mistake(named, size, size + 1)
    assert found is not None and "set `tokenizer" not in found
    assert "has a vocabulary of 29, its tokenizer one of 30: the model does not know `<extra>`; remove it from" in found
    found = vocabulary_mistake(named, size, 40)
    assert found is not None and found.endswith("has a vocabulary of 29, the corpus of 40; set `tokenizer: {kind:"
                                                f" pretrained, name: {copied / 'gpt2'}}}`")  # fmt: skip
