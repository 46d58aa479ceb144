"""Text as it streams, against all tokens decoded together."""

import random

import pytest

from rlm.data.config import EncyclopediaSource, TrainedByteTokenizer, TrainedTokenizer
from rlm.data.encyclopedia import passages
from rlm.data.tokenizer import encode, make_tokenizer, stream_text

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
