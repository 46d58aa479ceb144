"""How many bytes tokens stand for, against the bytes of texts."""

import pytest

from rlm.data.config import EncyclopediaSource, TrainedByteTokenizer, TrainedTokenizer
from rlm.data.encyclopedia import passages
from rlm.data.tokenizer import END_OF_TEXT, encode, make_tokenizer, token_bytes

ODD = ["naïve café — 東京 🙂\t\n  x", f"a{END_OF_TEXT}b", "\x00\x7f\xad"]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [passage.text for passage in passages(EncyclopediaSource(entities=20))]


def test_token_bytes__of_a_byte_level_tokenizer_add_up_to_those_of_the_text(texts: list[str]) -> None:
    tokenizer = make_tokenizer(TrainedByteTokenizer(vocab_size=400), lambda: texts, ())
    sizes = token_bytes(tokenizer)
    assert len(sizes) == len(tokenizer) and sizes.max() > 3
    added = tokenizer.add_tokens(["東"])  # no character of it stands for a byte
    assert added == 1 and token_bytes(tokenizer)[-1] == 3
    for text, row in zip([*texts, *ODD], encode(tokenizer, [*texts, *ODD]), strict=True):
        assert token_bytes(tokenizer)[row].sum() == len(text.encode())


def test_token_bytes__of_word_pieces_are_not_known(texts: list[str]) -> None:
    tokenizer = make_tokenizer(TrainedTokenizer(vocab_size=300), lambda: texts)
    assert token_bytes(tokenizer).tolist() == [1] * len(tokenizer)
