"""What the files of a tokenizer say, against the tokenizers that transformers makes of them."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rlm.data.tokenizer_files import describe_tokenizer, has_tokenizer, in_words
from rlm.errors import ConfigError
from tests import checkpoints
from tests.data.test_checkpoint_files import JSON

ALL = ("cls_token", "sep_token", "pad_token", "mask_token")


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return checkpoints.bert(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    return checkpoints.gpt2(tmp_path_factory.mktemp("gpt2") / "gpt2")


def test_describe_tokenizer__knows_the_tokens_that_transformers_knows(bert: Path, gpt2: Path, tmp_path: Path) -> None:
    for folder in (bert, gpt2):
        found, own = describe_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
        assert found.tokens == own.get_vocab()
        assert found.missing(ALL) == [name for name in ALL if getattr(own, name) is None]
        assert found.beyond(len(own)) == []
    shutil.copytree(bert, tmp_path / "lines")
    (tmp_path / "lines" / "tokenizer.json").unlink()
    assert describe_tokenizer(tmp_path / "lines").tokens == describe_tokenizer(bert).tokens


@pytest.mark.parametrize("way", ["tokenizer.json", "save_pretrained", "special"])
def test_beyond__is_what_was_added(way: str, gpt2: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(gpt2, tmp_path / "copy"))
    if way == "tokenizer.json":
        checkpoints.add_token(folder)
    elif way == "save_pretrained":
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(["<extra>"])
        tokenizer.save_pretrained(folder)
    else:
        checkpoints.change(folder / "tokenizer_config.json", mask_token="<extra>")
    found, own = describe_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert found.tokens == own.get_vocab()
    assert found.beyond(len(own) - 1) == ["<extra>"]


def test_missing__is_what_is_said_to_be_none(bert: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bert, tmp_path / "copy"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mask_token": None}))
    assert describe_tokenizer(folder).missing(ALL) == ["mask_token"]
    checkpoints.change(path, tokenizer_class="PreTrainedTokenizerFast", cls_token=None, pad_token={"content": "[PAD]"})
    assert describe_tokenizer(folder).missing(ALL) == ["cls_token", "mask_token"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", '{"model"', r"tokenizer\.json: no JSON \(.*download it again"),
        ("tokenizer.json", "{}", r"tokenizer\.json: no `model` with a vocabulary"),
        ("tokenizer.json", '{"model": {"vocab": 3}}', r"tokenizer\.json: `model\.vocab` is 3"),
        ("tokenizer.json", '{"model": {"vocab": {"a": -1}}}', r'the token "a" has the number -1'),
        ("tokenizer.json", '{"model": {"vocab": {}}, "added_tokens": [{"content": "a"}]}', 'the token "a" has the number null'),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json: holds \[\] in place of a mapping"),
        ("special_tokens_map.json", "{'a'}", r"special_tokens_map\.json: no JSON"),
    ],
)  # fmt: skip
def test_describe_tokenizer__when_a_file_is_damaged(name, content, message, bert: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bert, tmp_path / "copy"))
    (folder / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        describe_tokenizer(folder)


def test_describe_tokenizer__when_only_a_library_can_read_it(tmp_path: Path) -> None:
    assert not has_tokenizer(tmp_path)
    (tmp_path / "spiece.model").write_bytes(b"\x0a")
    assert has_tokenizer(tmp_path)
    found = describe_tokenizer(tmp_path)
    assert found.tokens is None and found.beyond(1) == [] and found.missing(ALL) == []


def test_in_words__escapes_what_is_no_text() -> None:
    assert in_words(["<extra>"]) == "`<extra>`"
    assert in_words(["\ud800", "é", *"abcdef"]) == "'\\ud800', '\\xe9', `a`, `b`, `c` and 3 more"


FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
)
FIELDS = st.sampled_from("model vocab added_tokens added_tokens_decoder tokenizer_class mask_token content id".split())
PLAIN = st.dictionaries(FIELDS, JSON | st.dictionaries(FIELDS, JSON, max_size=3), max_size=4).map(json.dumps)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(contents=st.dictionaries(st.sampled_from(FILES), PLAIN.map(str.encode) | st.binary(max_size=40), min_size=1))
def test_describe_tokenizer__of_any_files(contents: dict[str, bytes], tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    try:
        describe_tokenizer(folder).beyond(1)
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1
