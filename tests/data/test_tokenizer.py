"""Text as it streams, against all tokens decoded together; bytes that tokens stand for, against those of texts."""

import random

import pytest

from rlm.data.config import EncyclopediaSource, TrainedByteTokenizer, TrainedTokenizer
from rlm.data.encyclopedia import passages
from rlm.data.tokenizer import END_OF_TEXT, encode, make_tokenizer, stream_text, token_bytes

TEXTS = [passage.text for passage in passages(EncyclopediaSource(entities=20))]
TOKENIZERS = {
    "bytes": make_tokenizer(TrainedByteTokenizer(vocab_size=300), lambda: TEXTS, needs=()),
    "wordpiece": make_tokenizer(TrainedTokenizer(vocab_size=300), lambda: TEXTS),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("seed", range(20))
def test_stream_text__of_any_tokens_is_their_text(kind: str, seed: int) -> None:
    tokenizer = TOKENIZERS[kind]
    tokens = random.Random(seed).choices(range(len(tokenizer)), k=60)
    pieces = list(stream_text(tokenizer, tokens))
    assert "".join(pieces) == tokenizer.backend_tokenizer.decode(tokens, skip_special_tokens=False)
    assert len(pieces) > 15


def test_stream_text__holds_back_half_a_character() -> None:
    tokenizer, text = TOKENIZERS["bytes"], "né 🙂 Zoë 東京"
    (tokens,) = encode(tokenizer, [text])
    assert len(tokens) > len(text)
    given: list[int] = []

    def counted():
        for token in tokens:
            given.append(token)
            yield token

    for piece in stream_text(tokenizer, counted()):
        text = text.removeprefix(piece)
        assert "\N{REPLACEMENT CHARACTER}" not in piece
        assert tokenizer.backend_tokenizer.decode(given).endswith(piece)
    assert text == ""


def test_stream_text__that_ends_in_half_a_character_shows_that_it_does() -> None:
    tokenizer = TOKENIZERS["bytes"]
    (tokens,) = encode(tokenizer, ["so 🙂"])
    assert "".join(stream_text(tokenizer, tokens[:-1])) == "so \N{REPLACEMENT CHARACTER}"
    assert "".join(stream_text(tokenizer, [])) == ""


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
