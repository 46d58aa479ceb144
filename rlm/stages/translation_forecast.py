"""The work of kNN-MT's stages, from which a forecast makes seconds and bytes (imports nothing heavy)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlm.stages.text_forecast import Work

TOKENS_PER_PAIR = 18.0
"""Of a translation."""
PAIRS_PER_BYTE = 1 / 60
"""Pairs that a compressed byte holds."""
TEST_TOKENS = 15_000.0
"""Of a test set."""
SHAPE = {"layers": 6, "hidden_size": 512}
"""Of a checkpoint, opus-mt's."""
VOCABULARY = 8_000.0
STEP_SHARE = 20.0
"""Operations of a step of beam search, to those of the same tokens in one pass: it is small, and repeats the prefix."""


def pair_tokens(config: Mapping[str, Any], data: Path | None) -> float:
    """Tokens of the translations in a stage `parallel`."""
    return sum(_tokens(pairs, data) for pairs in config["pairs"].values())


def _tokens(pairs: Mapping[str, Any], data: Path | None) -> float:
    source, (low, high) = pairs["source"], pairs["part"]
    if source["kind"] == "phrasebook":
        count = float(source["sentences"])
    else:
        names = source.get("files") or (source["source_file"], source["target_file"])
        held = sum(path.stat().st_size for name in names for path in data.glob(name)) if data is not None else 0
        count = held * PAIRS_PER_BYTE or 1e5
    return min(count, source.get("limit") or count) * (high - low) * pairs["fraction"] * TOKENS_PER_PAIR


def parallel(config: Any, tokens: Callable[[str], float]) -> Work:
    """Both languages are cut; a tokenizer of its own reads them twice more."""
    again = 3 if config.get("tokenizer", {}).get("kind") == "trained_pairs" else 1
    return Work(pieces=2 * again * tokens(""), memory=3e8, disk=30 * tokens(""))


def mt_train(config: Any, tokens: Callable[[str], float]) -> Work:
    """Encoder and decoder read as many tokens each."""
    training = config["train"]["training"]
    read = training["batch_size"] * TOKENS_PER_PAIR
    weights = _weights(config["model"])
    memory = 16 * weights + read * (34 * 2 * _shape(config["model"])["layers"] + 12 * VOCABULARY)
    return Work(trained=3 * training["steps"] * read * 2 * weights, memory=memory, disk=4 * weights)


def mt_datastore(config: Any, tokens: Callable[[str], float]) -> Work:
    """One pass; a key has two or four bytes a unit of width."""
    size = 2 if config["datastore"]["dtype"] == "float16" else 4
    disk = tokens("text") * size * _shape(config["model"])["hidden_size"]
    return Work(encoded=tokens("text") * 2 * _weights(config["model"]), memory=5e8, disk=disk)


def mt_translate(config: Any, tokens: Callable[[str], float]) -> Work:
    """Every beam is read on at every step, and compared with every key."""
    decode, width = config["decode"], _shape(config["model"])["hidden_size"]
    steps = tokens("text") * decode["beams"]
    keys = sum(tokens(f"datastore_{number}") for number in range(8)) if decode["knn"]["weight"] else 0.0
    return Work(
        encoded=STEP_SHARE * steps * 2 * _weights(config["model"]),
        searched=2 * steps * keys * width,
        memory=5e8 + 4 * keys * width,
        disk=20 * tokens("text"),
    )


def mt_score(config: Any, tokens: Callable[[str], float]) -> Work:
    """N-grams of a test set take a second."""
    return Work(pieces=TEST_TOKENS, memory=1e8, disk=1e5)


TRANSLATION_STAGES: dict[str, Callable[[Any, Callable[[str], float]], Work]] = {
    work.__name__: work for work in (parallel, mt_train, mt_datastore, mt_translate, mt_score)
}


def _shape(model: Mapping[str, Any]) -> dict[str, Any]:
    return {**SHAPE, **model}


def _weights(model: Mapping[str, Any]) -> float:
    """Of encoder (12 times the square of the width a layer), decoder (16 times) and vocabulary."""
    shape = _shape(model)
    return float(28 * shape["layers"] * shape["hidden_size"] ** 2 + VOCABULARY * shape["hidden_size"])
