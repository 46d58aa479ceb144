"""Small checkpoints as users have them, in the formats of transformers."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer, GPT2Config, GPT2LMHeadModel

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "."]


def bert(folder: Path, **settings: Any) -> Path:
    """A BERT that knows letters."""
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    config = BertConfig(**{"vocab_size": len(VOCABULARY), "max_position_embeddings": 64, **shape, **settings})
    BertForMaskedLM(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def gpt2(folder: Path, **settings: Any) -> Path:
    """A GPT-2 that knows letters, with a tokenizer that has one token only that begins and ends texts."""
    vocabulary = {token: number for number, token in enumerate(["<|endoftext|>", *LETTERS, "Ġ", "."])}
    shape = {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**{"vocab_size": len(vocabulary), **shape, **settings})).save_pretrained(folder)
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    added = [{"id": 0, "content": "<|endoftext|>", "special": True, **dict.fromkeys(_FLAGS, False)}]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    plain = {"version": "1.0", "added_tokens": added, "pre_tokenizer": level, "decoder": level, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(plain))
    settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


def change(path: Path, **fields: Any) -> None:
    """Give a JSON file other fields; None removes one."""
    plain = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in plain.items() if value is not None}))


def add_token(folder: Path, token: str = "<extra>") -> None:
    """Add a token to a tokenizer, without its model."""
    path = folder / "tokenizer.json"
    plain = json.loads(path.read_text())
    number = len(set(plain["model"]["vocab"]) | {added["content"] for added in plain["added_tokens"]})
    plain["added_tokens"].append({"id": number, "content": token, "special": False, **dict.fromkeys(_FLAGS, False)})
    path.write_text(json.dumps(plain))


def bert_and_gpt2(folder: Path) -> Path:
    """A folder with one of either, `bert` and `gpt2`."""
    bert(folder / "bert")
    gpt2(folder / "gpt2")
    return folder
