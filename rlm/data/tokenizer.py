"""The tokenizer of a corpus: trained on it, or a checkpoint's."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
from tokenizers.decoders import ByteLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlm.config import identity
from rlm.data.config import PretrainedTokenizer, TextTokenizerConfig, TrainedByteTokenizer
from rlm.data.pretrained import load_tokenizer
from rlm.errors import ConfigError

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
END_OF_TEXT = "<|endoftext|>"


def make_tokenizer(
    config: TextTokenizerConfig,
    texts: Callable[[], Iterable[str]],
    needs: tuple[str, ...] = ("cls", "sep", "pad", "mask"),
) -> Any:
    """A fast tokenizer; `texts` is called only where one is trained, and more than once.

    Args:
        config: trained or a checkpoint's.
        texts: it is trained on.
        needs: special tokens that it must have; a BERT-like one has all of these, a GPT-2 none.

    Raises:
        ConfigError: the checkpoint has none, or it lacks a special token.
    """
    if isinstance(config, PretrainedTokenizer):
        failure = "is no folder with a tokenizer and the hub did not give one"
        tokenizer = load_tokenizer(config, "tokenizer.name", failure, use_fast=True)
    elif isinstance(config, TrainedByteTokenizer):
        tokenizer = _train_bytes(config.vocab_size, texts)
    else:
        trained = BertWordPieceTokenizer(vocab=_train(config.vocab_size, texts), lowercase=True)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, **SPECIAL)
    missing = [name for name in needs if getattr(tokenizer, f"{name}_token_id") is None]
    if missing or not tokenizer.is_fast:
        raise ConfigError(
            f"tokenizer: {identity(config)} has no {', '.join(missing) or 'fast version'};"
            " name a BERT-like checkpoint (with [CLS], [SEP], [PAD] and [MASK])"
        )
    return tokenizer


def _train(vocab_size: int, texts: Callable[[], Iterable[str]]) -> dict[str, int]:
    """A WordPiece vocabulary.

    The trainer numbers the letters inside words in the order of a randomly seeded hash table, and breaks ties by
    number; naming them in advance makes the result the same each time.
    """
    trainer = BertWordPieceTokenizer(lowercase=True)
    letters: set[str] = set()
    for text in texts():
        letters.update(trainer.normalize(text))
    first = [*SPECIAL.values(), *(f"##{letter}" for letter in sorted(letters) if not letter.isspace())]
    trainer.train_from_iterator(
        texts(), vocab_size=vocab_size, min_frequency=2, special_tokens=first, show_progress=False
    )
    return trainer.get_vocab()


def _train_bytes(vocab_size: int, texts: Callable[[], Iterable[str]]) -> Any:
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        texts(), vocab_size=vocab_size, min_frequency=2, special_tokens=[END_OF_TEXT], show_progress=False
    )
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)


def open_tokenizer(folder: Path) -> Any:
    """What `save_pretrained` wrote."""
    return AutoTokenizer.from_pretrained(folder)


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Word pieces of each text, without special tokens."""
    if not texts:
        return []
    found: list[list[int]] = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )["input_ids"]
    return found


def stream_text(tokenizer: Any, tokens: Iterable[int]) -> Iterator[str]:
    """Text of tokens as they come, as it would be decoded from all together; half a character waits for the rest."""
    decode = partial(tokenizer.backend_tokenizer.decode, skip_special_tokens=False)
    # Tokens read before those that wait: whether a space stands between the two depends on both.
    window: list[int] = []
    read = 0
    for token in tokens:
        window.append(token)
        before, text = decode(window[:read]), decode(window)
        if len(text) > len(before) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(before) :]
            window = window[read:]
            read = len(window)
    yield decode(window)[len(decode(window[:read])) :]


def token_bytes(tokenizer: Any) -> NDArray[np.int64]:
    """Bytes of text that each token stands for, [vocabulary]; 1 for all where they are not of a byte-level tokenizer,
    whose every character stands for a byte."""
    vocabulary = tokenizer.get_vocab()
    sizes = np.ones(max(vocabulary.values()) + 1, np.int64)
    if isinstance(tokenizer.backend_tokenizer.decoder, ByteLevel):
        sizes[list(vocabulary.values())] = [len(piece) for piece in vocabulary]
        for number, added in tokenizer.added_tokens_decoder.items():  # as they stand in the text
            sizes[number] = len(added.content.encode())
    return sizes
