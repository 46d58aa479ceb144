"""The tokenizer of a corpus: trained on it, or a checkpoint's."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import BertWordPieceTokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlm.config import identity
from rlm.data.config import PretrainedTokenizer, TokenizerConfig
from rlm.data.pretrained import locate
from rlm.errors import ConfigError

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def make_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> Any:
    """A fast BERT-like tokenizer; `texts` are read only where one is trained.

    Raises:
        ConfigError: the checkpoint has none, or it lacks [CLS], [SEP], [PAD] or [MASK].
    """
    if isinstance(config, PretrainedTokenizer):
        try:
            tokenizer = AutoTokenizer.from_pretrained(locate(config.name), revision=config.revision, use_fast=True)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"tokenizer.name: `{config.name}` is no folder with a tokenizer and the hub did not give one ({error});"
                " write the path of a downloaded checkpoint"
            ) from error
    else:
        trained = BertWordPieceTokenizer(lowercase=True)
        trained.train_from_iterator(
            texts,
            vocab_size=config.vocab_size,
            min_frequency=2,
            special_tokens=list(SPECIAL.values()),
            show_progress=False,
        )
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, **SPECIAL)
    missing = [name for name in ("cls", "sep", "pad", "mask") if getattr(tokenizer, f"{name}_token_id") is None]
    if missing or not tokenizer.is_fast:
        raise ConfigError(
            f"tokenizer: {identity(config)} has no {', '.join(missing) or 'fast version'};"
            " name a BERT-like checkpoint (with [CLS], [SEP], [PAD] and [MASK])"
        )
    return tokenizer


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
