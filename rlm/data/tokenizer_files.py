"""What the files of a tokenizer say, without the libraries that read them (imports nothing heavy)."""

import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlm.data.checkpoint_files import DAMAGED, in_json, read_json, readable
from rlm.errors import ConfigError

_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of transformers that have no special tokens but those that their files name."""
_OF_DECODERS = ("GPT2Tokenizer", "GPTNeoXTokenizer", "LlamaTokenizer")
"""Those that have tokens that begin and end a text."""
_MODELS_OF_DECODERS = ("gpt2", "gpt_neo", "gpt_neox", "gptj", "llama")
"""Model types whose tokenizers are of these classes where no class is named."""


@dataclass(frozen=True)
class TokenizerFiles:
    """What a folder tells of its tokenizer."""

    tokens: Mapping[str, int] | None
    """The number of each token, those that were added too; None where only a library can tell (sentencepiece)."""
    special: Mapping[str, str | None]
    """Special tokens that are named, as `mask_token`; None where it is said that there is none."""
    named_only: frozenset[str]
    """Those that its class does not have by itself."""

    def missing(self, needs: Iterable[str]) -> list[str]:
        """Those of `needs`, such as `mask_token`, that the tokenizer surely lacks."""
        sure = self.named_only | self.special.keys()
        return [name for name in needs if name in sure and self.special.get(name) is None]

    def beyond(self, vocabulary: int) -> list[str]:
        """Tokens that a model of that vocabulary does not know, in the order of their numbers."""
        tokens = self.tokens or {}
        return sorted((token for token, number in tokens.items() if number >= vocabulary), key=lambda t: tokens[t])


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has any file of a tokenizer."""
    names = (path.name for path in folder.iterdir())
    return any(name.startswith(("tokenizer", "vocab.")) or name.endswith((".model", ".spm")) for name in names)


def describe_tokenizer(folder: Path) -> TokenizerFiles:
    """Read the files of a tokenizer.

    Raises:
        ConfigError: one of them is damaged.
    """
    named = read_special(folder)
    settings, own = named.pop("", {}), _vocabulary(folder)
    special = {key: _content(value) for key, value in named.items() if key.endswith("_token")}
    if own is not None:
        added = settings.get("added_tokens_decoder")
        if isinstance(added, dict):
            # `{"300": {"content": "<extra>"}}`
            own = own | {
                content: int(number)
                for number, token in added.items()
                if number.isdecimal() and len(number) < 16 and (content := _content(token)) is not None
            }
        # what is named and has no number gets the next
        for token in special.values():
            if token is not None:
                own.setdefault(token, max(own.values(), default=-1) + 1)
    kind = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
    named_only: tuple[str, ...] = ()
    if kind in _OF_DECODERS or (not kind and settings.get("model_type") in _MODELS_OF_DECODERS):
        named_only = ("cls_token", "sep_token", "pad_token", "mask_token")
    elif kind in _GENERIC or f"{kind}Fast" in _GENERIC:
        named_only = ("cls_token", "sep_token", "pad_token", "mask_token", "bos_token", "eos_token")
    return TokenizerFiles(tokens=own, special=special, named_only=frozenset(named_only))


def read_special(folder: Path) -> dict[str, Any]:
    """Special tokens by name as the files have them; under "" what tokenizer_config.json, or config.json, says else."""
    found: dict[str, Any] = {}
    for name in ("config.json", "tokenizer_config.json", "special_tokens_map.json"):
        if os.path.lexists(folder / name):
            plain = read_json(folder / name)
            if name == "config.json":
                found[""] = {"model_type": str(plain.get("model_type"))}
                continue
            if name == "tokenizer_config.json":
                found[""] = found.get("", {}) | plain
            found |= {key: value for key, value in plain.items() if key.endswith("_token")}
    return found


def _content(token: Any) -> str | None:
    """The text of a token, which may be a mapping with its settings."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _vocabulary(folder: Path) -> dict[str, int] | None:
    """The number of each token; None where no file lists them."""
    for name, read in (("tokenizer.json", _of_json), ("vocab.txt", _of_lines), ("vocab.json", _of_mapping)):
        path = folder / name
        if os.path.lexists(path):
            readable(path)
            try:
                status = path.stat()
            except OSError as error:
                raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
            tokens = dict(read(path, status.st_size, status.st_mtime_ns))
            added = folder / "added_tokens.json"
            if name != "tokenizer.json" and os.path.lexists(added):
                tokens |= _numbers(added, read_json(added))
            return tokens
    return None


@functools.lru_cache(maxsize=16)
def _of_json(path: Path, size: int, changed: int) -> Mapping[str, int]:
    plain = read_json(path)
    model, added = plain.get("model"), plain.get("added_tokens") or []
    if not isinstance(model, dict) or not isinstance(added, list):
        raise ConfigError(f"{path}: no `model` with a vocabulary: {DAMAGED}")
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):  # of sentencepiece: `[token, score]`
        pieces = [piece[0] if isinstance(piece, list) and piece else None for piece in vocabulary]
        vocabulary = {piece: number for number, piece in enumerate(pieces) if isinstance(piece, str)}
    if not isinstance(vocabulary, dict):
        raise ConfigError(f"{path}: `model.vocab` is {in_json(vocabulary)}: {DAMAGED}")
    listed = [(token.get("content"), token.get("id")) for token in added if isinstance(token, dict)]
    return _numbers(path, vocabulary | {token: number for token, number in listed if isinstance(token, str)})


@functools.lru_cache(maxsize=16)
def _of_lines(path: Path, size: int, changed: int) -> Mapping[str, int]:
    try:
        with path.open(encoding="utf-8") as lines:
            return {line.rstrip("\n"): number for number, line in enumerate(lines)}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({str(error).splitlines()[0]}): {DAMAGED}") from None


def _of_mapping(path: Path, size: int, changed: int) -> Mapping[str, int]:
    return _numbers(path, read_json(path))


def _numbers(path: Path, tokens: Mapping[str, Any]) -> dict[str, int]:
    wrong = next((token for token, number in tokens.items() if type(number) is not int or number < 0), None)
    if wrong is not None:
        raise ConfigError(f"{path}: the token {json.dumps(wrong)} has the number {in_json(tokens[wrong])}: {DAMAGED}")
    return dict(tokens)


def in_words(tokens: Sequence[str]) -> str:
    """Some tokens, in a message; what a terminal may not show is escaped."""
    some = ", ".join(f"`{token}`" if token.isascii() and token.isprintable() else ascii(token) for token in tokens[:5])
    return some + (f" and {len(tokens) - 5} more" if len(tokens) > 5 else "")
