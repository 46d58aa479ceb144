"""Stage: how well a language model predicts documents beside the neighbours of its states, and beside a cache."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlm.data.documents import Documents
from rlm.models.knn import (
    Spoken,
    cache_log_probability,
    gate_features,
    grid_nats,
    interpolate,
    knn_log_probability,
    prefix_log_probabilities,
    train_gate,
)
from rlm.models.knn_config import FLATNESS, SHARES, TEMPERATURES, WEIGHTS, CacheConfig, KnnConfig, KnnEvaluateConfig
from rlm.retrieval.datastore import Datastore
from rlm.retrieval.knn_table import KnnTable
from rlm.stages.datastore import SPOKEN
from rlm.stages.knn_examples import key_places, write_examples
from rlm.stages.stage import Context
from rlm.stages.training import seed_everything

TOKENS = 1 << 11
"""Whose neighbours are read together."""


@dataclass(frozen=True)
class Evaluated:
    """A text with what language model, neighbours and cache need to predict it."""

    documents: Documents
    queries: Datastore
    spoken: Spoken
    table: KnnTable | None

    @classmethod
    def open(cls, inputs: dict[str, Path], role: str = "") -> "Evaluated":
        """Of the inputs `text`, `queries` and, where it is there, `search`, all after `role`."""
        folder = inputs[f"{role}queries"]
        spoken = Spoken(*(torch.from_numpy(np.load(folder / f"{name}.npy")) for name in SPOKEN))
        table = KnnTable.open(inputs[f"{role}search"]) if f"{role}search" in inputs else None
        found = cls(
            Documents.open(inputs[f"{role}text"]), Datastore.open(folder / "datastore", whole=False), spoken, table
        )
        counts = {
            len(found.queries),
            len(spoken.lm),
            int(found.first[-1]),
            len(found.queries if table is None else table),
        }
        if len(counts) != 1:
            raise ValueError(f"{folder}: {sorted(counts)} tokens of one text; delete the folder and compute it again")
        return found

    @cached_property
    def targets(self) -> Tensor:
        return torch.from_numpy(self.queries.take_values(np.arange(len(self.queries))))

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """Token of each document, and the number of tokens: [documents + 1]."""
        return key_places(self.documents)

    def blocks(self, k: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Some tokens at a time: which, distances and tokens of their k nearest neighbours, [tokens, k]."""
        assert self.table is not None
        for low in range(0, len(self.table), TOKENS):
            some = slice(low, min(low + TOKENS, len(self.table)))
            tokens = torch.from_numpy(self.table.tokens[some, :k].astype(np.int64))
            yield some, torch.from_numpy(np.array(self.table.distances[some, :k])), tokens

    def knn(self, k: int, temperature: float) -> Tensor:
        """log p_kNN of every token, float64."""
        parts = [
            knn_log_probability(distances, tokens, self.targets[some], temperature)
            for some, distances, tokens in self.blocks(k)
        ]
        return torch.cat(parts)

    def cache(self, size: int, flatness: list[float]) -> Tensor:
        """log p_cache of every token, float64 [flatness, tokens]."""
        parts = []
        for low, high in zip(self.first, self.first[1:], strict=False):
            keys = np.concatenate([rows for _, rows in self.queries.slices(start=int(low), stop=int(high))])
            parts.append(cache_log_probability(torch.from_numpy(keys), self.targets[low:high], size, flatness))
        return torch.cat(parts, 1)

    def features(self, k: int) -> Tensor:
        """What a gate reads, [tokens, features]."""
        return torch.cat(
            [
                gate_features(Spoken(*(each[some] for each in self.spoken)), distances, tokens)
                for some, distances, tokens in self.blocks(k)
            ]
        )


def run(config: KnnEvaluateConfig, inputs: dict[str, Path], folder: Path, context: Context) -> dict[str, float]:
    """Writes `documents.jsonl`: of each document its id, nats, tokens predicted, tokens that are likelier than by the
    language model alone, and bytes of the raw text; and what was chosen on the development text.

    Raises:
        ValueError: more neighbours than were searched, or a token that is impossible (a weight of 1).
    """
    seed_everything(context)
    torch.set_num_threads(context.threads)
    test = Evaluated.open(inputs)
    dev = Evaluated.open(inputs, "dev_") if "dev_queries" in inputs else None
    predicted, on_dev = test.spoken.lm.double(), None if dev is None else dev.spoken.lm.double()
    # what is read beside the language model; lambda of each token
    chosen, weights = dict.fromkeys(("k", "temperature", "weight", "cache_flatness", "cache_weight"), 0.0), None
    if config.knn is not None:
        predicted, on_dev, weights, settings = _knn(config.knn, test, dev, folder)
        chosen |= settings
    if config.cache is not None:
        predicted, settings = _cache(config.cache, test, dev, predicted, on_dev)
        chosen |= settings
    if not bool(torch.isfinite(predicted).all()):
        count = int((~torch.isfinite(predicted)).sum())
        raise ValueError(
            f"{count} tokens have no neighbour with the token that follows, and a weight of 1 makes them impossible: "
            "the perplexity is infinite; write a weight below 1"
        )
    chosen["keys"] = 0.0 if test.table is None else float(test.table.described["keys"])
    (folder / "chosen.json").write_text(json.dumps(chosen), encoding="utf-8")
    np.save(folder / "log_probabilities.npy", predicted.float().numpy())
    if test.table is not None:
        roles = sorted((role for role in inputs if role.startswith("datastore")), key=lambda role: (len(role), role))
        stores = [Documents.open(inputs[role]) for role in roles]
        lm = test.spoken.lm.double().numpy()
        write_examples(folder / "examples.jsonl", test.documents, stores, test.table, lm, predicted.numpy())
    helped = (predicted > test.spoken.lm.double()).numpy()
    lambdas = np.zeros(len(helped)) if weights is None else weights.double().numpy()
    sums = (np.add.reduceat(each, test.first[:-1]) for each in (-predicted.numpy(), helped.astype(np.int64), lambdas))
    nats, more, weight = sums
    tokens = np.diff(test.first)
    with open(folder / "documents.jsonl", "w", encoding="utf-8") as file:
        for number, size in enumerate(test.documents.bytes.tolist()):
            line = {"id": test.documents.id(number), "nats": float(nats[number]), "tokens": int(tokens[number])}
            line |= {"helped": int(more[number]), "bytes": size, **chosen}
            line["weight"] = float(weight[number] / tokens[number])
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return {
        "perplexity": exp(nats.sum() / tokens.sum()),
        "bits_per_byte": float(nats.sum() / log(2) / test.documents.bytes.sum()),
        "tokens_helped": float(100 * more.sum() / tokens.sum()),
        "tokens": float(tokens.sum()),
        **chosen,
        "weight": float(weight.sum() / tokens.sum()),
    }


def grid_of(config: KnnConfig, text: Evaluated) -> dict[str, list[float]]:
    """The values that are tried for k, temperature and weight; temperatures in units of the mean distance of the
    nearest neighbour, which differs from model to model."""
    assert text.table is not None
    ks = sorted({max(1, round(share * text.table.k)) for share in SHARES}) if config.k == "tuned" else [config.k]
    nearest = float(text.table.distances[:, 0].mean(dtype=float)) or 1.0
    temperatures = (
        [share * nearest for share in TEMPERATURES] if config.temperature == "tuned" else [config.temperature]
    )
    weights = list(WEIGHTS) if isinstance(config.weight, str) else [config.weight]
    return {"k": ks, "temperature": temperatures, "weight": weights}  # type: ignore[dict-item]


def perplexities(text: Evaluated, grid: dict[str, list[float]]) -> NDArray[np.float64]:
    """Of every cell, [k, temperature, weight], from one pass over the neighbours."""
    ks = [int(k) for k in grid["k"]]
    nats = torch.zeros(len(ks), len(grid["temperature"]), len(grid["weight"]), dtype=torch.float64)
    for some, distances, tokens in text.blocks(ks[-1]):
        knn = prefix_log_probabilities(distances, tokens, text.targets[some], grid["temperature"], ks)
        nats += grid_nats(text.spoken.lm[some], knn, grid["weight"])
    return np.exp(nats.numpy() / len(text.targets))


def _knn(
    config: KnnConfig, test: Evaluated, dev: Evaluated | None, folder: Path
) -> tuple[Tensor, Tensor | None, Tensor, dict[str, float]]:
    """log p with neighbours of both texts, lambda of each token of the first, and what was chosen."""
    assert test.table is not None
    if config.k != "tuned" and config.k > test.table.k:
        raise ValueError(f"k = {config.k} neighbours, {test.table.k} were searched; raise `search.k`")
    if dev is None:
        assert not isinstance(config.k, str) and not isinstance(config.temperature, str)
        assert not isinstance(config.weight, str)
        chosen: dict[str, float] = {"k": config.k, "temperature": config.temperature, "weight": config.weight}
    else:
        grid = grid_of(config, dev)
        found = perplexities(dev, grid)
        (folder / "grid.json").write_text(json.dumps({**grid, "perplexity": found.tolist()}), encoding="utf-8")
        best = np.unravel_index(int(found.argmin()), found.shape)
        chosen = {name: values[place] for (name, values), place in zip(grid.items(), best, strict=True)}
    k, temperature = int(chosen["k"]), float(chosen["temperature"])
    texts = [test] if dev is None else [test, dev]
    knn = [text.knn(k, temperature) for text in texts]
    weights: list[Any] = [float(chosen["weight"])] * len(texts)
    if config.weight == "learned":
        assert dev is not None
        gate = train_gate(dev.features(k), dev.spoken.lm, knn[1])
        weights = [gate(text.features(k)) for text in texts]
    mixed = [interpolate(text.spoken.lm, *each).double() for text, *each in zip(texts, knn, weights, strict=True)]
    return mixed[0], mixed[1] if dev is not None else None, torch.as_tensor(weights[0]).expand_as(mixed[0]), chosen


def _cache(
    config: CacheConfig, test: Evaluated, dev: Evaluated | None, predicted: Tensor, on_dev: Tensor | None
) -> tuple[Tensor, dict[str, float]]:
    """log p with the cache beside what was predicted, and what was chosen."""
    if on_dev is None or dev is None:
        assert not isinstance(config.flatness, str) and not isinstance(config.weight, str)
        flatness, weight = config.flatness, config.weight
    else:
        # in units of the mean squared length of keys, so that every model has the same
        sample = dev.queries.take(np.arange(min(len(dev.queries), TOKENS))).astype(np.float64)
        length = float(np.square(sample).sum(1).mean())
        tried = [share / length for share in FLATNESS] if config.flatness == "tuned" else [float(config.flatness)]
        weights = list(WEIGHTS) if config.weight == "tuned" else [float(config.weight)]
        nats = grid_nats(on_dev, dev.cache(config.tokens, tried), weights)
        row, column = np.unravel_index(int(nats.argmin()), nats.shape)
        flatness, weight = tried[row], weights[column]
    cached = test.cache(config.tokens, [flatness])[0]
    return interpolate(predicted, cached, weight).double(), {"cache_flatness": flatness, "cache_weight": weight}
