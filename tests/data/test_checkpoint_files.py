"""What config.json and the weights' files say, against transformers' own configurations and damaged files."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import AutoConfig

from rlm.data.checkpoint_files import check_weights, describe, family_of, positions_of, weight_files
from rlm.errors import ConfigError
from tests import checkpoints


@pytest.mark.parametrize(
    ("model_type", "family", "positions"),
    [
        *[("bert", "encoder", 512), ("roberta", "encoder", 510), ("distilbert", "encoder", 512)],
        *[("electra", "encoder", 512), ("mpnet", "encoder", 510), ("modernbert", "encoder", 8192)],
        *[("gpt2", "decoder", 1024), ("openai-gpt", "decoder", 512), ("opt", "decoder", 2048)],
        *[("llama", "decoder", 2048), ("gpt_neox", "decoder", 2048), ("bloom", "decoder", None)],
        *[("t5", "encoder-decoder", None), ("marian", "encoder-decoder", 1024), ("bart", "encoder-decoder", 1024)],
        *[("m2m_100", "encoder-decoder", 1024), ("pegasus", "encoder-decoder", 1024)],
    ],
)
def test_describe__of_architectures_as_transformers_saves_them(model_type, family, positions, tmp_path: Path) -> None:
    config = AutoConfig.for_model(model_type)
    if model_type in ("roberta", "mpnet"):
        config.max_position_embeddings = 512  # of which two stand for padding and what is before
    config.save_pretrained(tmp_path)
    found = describe("it", tmp_path)
    assert (found.model_type, found.family, found.positions) == (model_type, family, positions)
    assert found.vocabulary == config.vocab_size and found.width == config.hidden_size
    assert family == "encoder-decoder" or found.layers == config.num_hidden_layers
    assert family_of(config.to_dict()) == family and positions_of(config.to_dict()) == positions


def test_describe__of_segments_and_labels(tmp_path: Path) -> None:
    config = AutoConfig.for_model("bert", type_vocab_size=1, id2label={0: "O", 1: "B-PER"}, is_decoder=True)
    config.save_pretrained(tmp_path)
    found = describe("it", tmp_path)
    assert (found.segments, found.labels, found.family) == (1, ("O", "B-PER"), "decoder")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"config\.json: no JSON \(Expecting value.*download it again"),
        ("{", r"config\.json: no JSON"),
        ("[1, 2]", r"config\.json: holds \[1, 2\] in place of a mapping"),
        ("[" * 100_000, r"config\.json: no JSON"),
        ('{"max_position_embeddings": ' + "9" * 5000 + "}", r"config\.json: no JSON"),
        ('{"max_position_embeddings": NaN}', "`max_position_embeddings` is NaN; write a whole number of at least 1"),
        ('{"max_position_embeddings": "64"}', '`max_position_embeddings` is "64"; write a whole number'),
        ('{"n_positions": true}', "`n_positions` is true; write a whole number"),
        ('{"vocab_size": -3}', "`vocab_size` is -3"),
        ('{"hidden_size": 1e400}', "`hidden_size` is Infinity"),
        ('{"model_type": 7}', "`model_type` is 7; write a name"),
        ('{"id2label": ["O"]}', r'`id2label` is \["O"\]; write the name of each label'),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS.*git lfs pull"),
    ],
)
def test_describe__when_it_is_damaged(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=message) as raised:
        describe("it", tmp_path)
    assert "\n" not in str(raised.value)


def test_describe__when_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"it: no config\.json in the folder.*write the path of a downloaded"):
        describe("it", tmp_path)
    (tmp_path / "config.json").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"config\.json: a link to a file that is not there"):
        describe("it", tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError, match=r"config\.json: no file"):
        describe("it", tmp_path)
    (tmp_path / "config.json").rmdir()
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ConfigError, match="it holds GGUF, which is not read"):
        describe("it", tmp_path)
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "checkpoint-500" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match='its folder "checkpoint-500" has one: write the path of that'):
        describe("it", tmp_path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoints.bert(folder)
    return folder


def copied(saved: Path, folder: Path) -> Path:
    return Path(shutil.copytree(saved, folder / "copy"))


def test_check_weights__of_whole_files(saved: Path, tmp_path: Path) -> None:
    check_weights(saved)
    (tmp_path / "shards").mkdir()
    save_file({}, tmp_path / "shards" / "empty.safetensors")
    weights = {"a": torch.zeros(3, 2, dtype=torch.float16), "b": torch.zeros(()), "c": torch.zeros(0, 4)}
    save_file(weights, tmp_path / "shards" / "one.safetensors", {"format": "pt"})
    index = {"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "x": "empty.safetensors"}}
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [path.name for path in weight_files(tmp_path / "shards")] == ["one.safetensors", "empty.safetensors"]
    check_weights(tmp_path / "shards")
    for legacy in (True, False):
        torch.save(weights, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
        check_weights(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, 5000, -1])
def test_check_weights__when_the_file_was_cut_short(size: int, saved: Path, tmp_path: Path) -> None:
    path = copied(saved, tmp_path) / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:size])
    with pytest.raises(ConfigError, match=r"copy/model\.safetensors: .*download it again"):
        check_weights(path.parent)
    path.write_bytes(content + b"\0")
    with pytest.raises(ConfigError, match=r"copy/model\.safetensors: cut short or damaged"):
        check_weights(path.parent)


def test_check_weights__when_other_files_are_damaged_or_missing(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path)
    whole = (folder / "model.safetensors").rename(folder / "one.safetensors")
    index = folder / "model.safetensors.index.json"
    for content, message in (
        ("{}", r"index\.json: no `weight_map`"),
        ('{"weight_map": {"a": 3}}', r"index\.json: no `weight_map`"),
        ('{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}', '1 of 2 files are not there, .*"two.saf'),
        ('{"weight_map": {"a": "\\u0000"}}', "1 of 1 files are not there"),
        ('{"weight_map": {"a": "\\ud800"}}', "1 of 1 files are not there"),
    ):
        index.write_text(content)
        with pytest.raises(ConfigError, match=message):
            check_weights(folder)
    index.write_text('{"weight_map": {"a": "one.safetensors"}}')
    whole.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 5\n")
    with pytest.raises(ConfigError, match=r"one\.safetensors: a pointer of Git LFS"):
        check_weights(folder)
    index.unlink()
    torch.save({"a": torch.zeros(500)}, folder / "pytorch_model.bin")
    content = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(content[:1000])
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin: cut short or damaged"):
        check_weights(folder)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(content=st.binary(max_size=200))
def test_check_weights__of_any_bytes(content: bytes, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name in ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"):
        (folder / name).write_bytes(content)
        try:
            check_weights(folder)
        except ConfigError as error:
            assert len(str(error).splitlines()) == 1
        (folder / name).unlink()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
ENTRY = JSON | st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "F4"]) | JSON,
        "shape": st.lists(st.integers(0, 9), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(0, 99), min_size=2, max_size=2) | JSON,
    }
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(header=st.dictionaries(st.text(max_size=4), ENTRY, max_size=4) | JSON, body=st.binary(max_size=99))
def test_check_weights__of_any_header(header, body: bytes, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("any")
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    try:
        check_weights(folder)
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1


FIELDS = st.sampled_from(
    "model_type max_position_embeddings n_positions pad_token_id vocab_size hidden_size type_vocab_size id2label"
    " is_encoder_decoder is_decoder num_hidden_layers architectures".split()
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(plain=st.dictionaries(FIELDS, JSON | st.sampled_from(["bert", "roberta", "t5", 64]), max_size=6))
def test_describe__of_any_values(plain, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "config.json").write_text(json.dumps(plain))
    try:
        describe("it", folder)
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1
