"""What a stage will cost: from the recorded cost of a like stage, else from a formula (imports nothing heavy).

Both need the same thing, the work of a stage: floating-point operations of its encoders (2 a weight and token forward,
three times that in training), passages cut or tagged, bytes written. A recorded cost is scaled by the ratio of work.
"""

import functools
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlm.config import to_plain
from rlm.stages.stage import Stage
from rlm.stages.text_forecast import TEXT_STAGES, source_tokens
from rlm.stages.translation_forecast import TRANSLATION_STAGES, pair_tokens

# Rates of one core (bfloat16 with AMX) and of one GPU (H100 class), operations per second.
TRAIN_RATE = {"cpu": 6e10, "cuda": 1e14}
ENCODE_RATE = {"cpu": 2.5e11, "cuda": 3e14}
SEARCH_RATE = {"cpu": 2e10, "cuda": 2e12}
# Word pieces cut per second and core, passages tagged, and pairs of tokens compared.
TOKENIZE_RATE = 3e5
TAG_RATE = {"rules": 3000.0, "spacy": 100.0}
COMPARE_RATE = 1.5e9
# Seconds a stage takes whatever its size; bytes of a process that has imported torch and Lightning.
STAGE_SECONDS, PROCESS_BYTES = 1.0, 900e6
# Known shapes of checkpoints: layers, width, vocabulary. Others are taken as BERT-base.
CHECKPOINTS = {"minilm": (6, 384, 30522), "large": (24, 1024, 30522), "": (12, 768, 30522)}
# Passages a compressed megabyte holds, and bytes of text in a word piece.
PASSAGES_PER_BYTE, BYTES_PER_TOKEN = 1 / 240, 4.5
PASSAGES_PER_ENTITY = 4.0
QUESTIONS = 3000.0
# Share of training questions with an answer among the passages read: fine-tuning reads no others.
READABLE = 0.3
# Stages whose cost is the same with and without a GPU.
DEVICE_FREE = ("corpus", "questions", "salient_spans", "documents", "leakage", "parallel", "mt_score")
_READING = TEXT_STAGES | TRANSLATION_STAGES


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stage is expected to cost."""

    seconds: float
    memory_bytes: float
    """Peak, of the processes on a CPU, of the device on a GPU."""
    disk_bytes: float
    source: str
    """Where the figures come from."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What is there."""

    device: str
    """`cpu` or `cuda`."""
    threads: int
    """Cores of one stage."""
    devices: int = 1
    memory_bytes: float = math.inf
    disk_bytes: float = math.inf


@dataclass(frozen=True, slots=True)
class _Formula:
    seconds: float
    memory: float
    disk: float


@dataclass
class Forecast:
    """Costs of stages, by what the store has recorded.

    Args:
        store: its finished stages are read once.
        machine: where the stages will run.
        data: folder of the sources of kind `files`, for their sizes.
    """

    store: Path
    machine: Machine
    data: Path | None = None
    _records: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)
    """By folder name."""

    def __post_init__(self) -> None:
        """Read the records."""
        for path in sorted((self.store / "stages").glob("*/stage.json")):
            if path.parent.suffix == ".tmp":
                continue
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                record |= {name: float(record[name]) for name in ("seconds", "peak_memory_bytes", "disk_bytes")}
                record["name"], record["config"], record["inputs"]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # Damaged records are reported where the stage is used.
            self._records[path.parent.name] = record

    def cost(self, stage: Stage) -> Cost:
        """Time, memory and disk of one stage."""
        if stage.folder in self._records:
            record = self._records[stage.folder]
            return Cost(record["seconds"], record["peak_memory_bytes"], record["disk_bytes"], "measured")
        now = self._formula(stage.name, to_plain(stage.config), lambda role: self._size(stage, role))
        like = self._like(stage, now)
        if like is None:
            return Cost(now.seconds, now.memory, now.disk, "formula")
        folder, then = like
        record = self._records[folder]
        ratio = now.seconds / then.seconds
        return Cost(
            record["seconds"] * ratio,
            record["peak_memory_bytes"] * max(1.0, now.memory / then.memory),
            record["disk_bytes"] * now.disk / then.disk,
            f"like {folder}" + (f" x {ratio:.2g}" if abs(ratio - 1) > 0.01 else ""),
        )

    def _like(self, stage: Stage, now: _Formula) -> tuple[str, _Formula] | None:
        """The recorded stage of the same name and kind of device whose work is nearest."""
        best: tuple[float, str, _Formula] | None = None
        for folder, record in self._records.items():
            if record["name"] != stage.name:
                continue
            if stage.name not in DEVICE_FREE and not str(record.get("device", "")).startswith(self.machine.device):
                continue
            try:
                then = self._formula(record["name"], record["config"], functools.partial(self._recorded, record))
            except (KeyError, TypeError, AttributeError, ValueError):
                continue  # Written by another version, whose fields were others.
            far = abs(math.log(now.seconds / then.seconds)) + abs(math.log(now.memory / then.memory))
            if best is None or far < best[0]:
                best = (far, folder, then)
        return None if best is None else best[1:]

    def _size(self, stage: Stage, role: str) -> float:
        """Passages of the corpus, or tokens of the documents, that are a stage's input; of its own without a role."""
        source = stage if role == "" else stage.inputs.get(role)
        if source is None:
            return 0.0
        metrics = self._records.get(source.folder, {}).get("metrics", {})
        if source.name in ("datastore", "mt_datastore") and not metrics:
            return self._size(source, "text")
        return self._size_of(source.name, to_plain(source.config), metrics)

    def _recorded(self, record: Mapping[str, Any], role: str) -> float:
        source = record if role == "" else self._records.get(record["inputs"].get(role, ""))
        return 0.0 if source is None else self._size_of(source["name"], source["config"], source.get("metrics", {}))

    def _size_of(self, name: str, config: Any, metrics: Mapping[str, float]) -> float:
        counted = {
            **{"corpus": "passages", "documents": "tokens", "datastore": "keys"},
            **{"parallel": "target_tokens", "mt_datastore": "keys"},
        }.get(name)
        if counted is None:
            return 0.0
        if counted in metrics:
            return float(metrics[counted])
        if name == "parallel":
            return pair_tokens(config, self.data)
        if name == "documents":
            return source_tokens(config["documents"], self._source_passages(config["documents"]["source"]))
        return self._source_passages(config["corpus"]["source"])

    def _source_passages(self, source: Mapping[str, Any]) -> float:
        if source["kind"] == "encyclopedia":
            return float(source["entities"]) * PASSAGES_PER_ENTITY
        limit = source.get("limit")
        if source["kind"] == "files" and self.data is not None:
            held = sum(path.stat().st_size for name in source["files"] for path in self.data.glob(name))
            return min(held * PASSAGES_PER_BYTE, limit or math.inf)
        return float(limit or 2e7)

    def _formula(self, name: str, config: Any, size: Callable[[str], float]) -> _Formula:
        formula: Callable[..., _Formula] | None = getattr(self, f"_{name}", None)
        if name in _READING:
            cost = self._texts(name, config, size)
        elif formula is None:
            return _Formula(60.0, PROCESS_BYTES, 1e8)
        else:
            cost = formula(config, size)
        return _Formula(STAGE_SECONDS + cost.seconds, PROCESS_BYTES + cost.memory, 1e5 + cost.disk)

    def _rate(self, rates: Mapping[str, float]) -> float:
        device = self.machine.device
        return rates[device] * (self.machine.threads if device == "cpu" else self.machine.devices)

    def _texts(self, name: str, config: Any, tokens: Callable[[str], float]) -> _Formula:
        work = _READING[name](config, tokens)
        seconds = work.pieces / TOKENIZE_RATE / self.machine.threads + work.trained / self._rate(TRAIN_RATE)
        seconds += work.encoded / self._rate(ENCODE_RATE) + work.searched / self._rate(SEARCH_RATE)
        seconds += work.compared / COMPARE_RATE
        return _Formula(seconds, work.memory, work.disk)

    def _corpus(self, config: Any, passages: Callable[[str], float]) -> _Formula:
        tokens = passages("") * config["corpus"]["max_tokens"]
        return _Formula(tokens / TOKENIZE_RATE / self.machine.threads, 3e8, tokens * (BYTES_PER_TOKEN + 2.2))

    def _questions(self, config: Any, passages: Callable[[str], float]) -> _Formula:
        return _Formula(1.0, 0.0, 1e7)

    def _salient_spans(self, config: Any, passages: Callable[[str], float]) -> _Formula:
        texts = passages("text")
        if config["kind"] in TAG_RATE:
            seconds = texts / TAG_RATE[config["kind"]] / self.machine.threads
        else:
            seconds = texts * 288 * _forward({"name": config["name"], "kind": "pretrained"}) / self._rate(ENCODE_RATE)
        return _Formula(seconds, 5e8, texts * 120)

    def _warm_start(self, config: Any, passages: Callable[[str], float]) -> _Formula:
        stage = config["warm_start"]
        tokens = stage.get("query_tokens", 96) + stage.get("passage_tokens", 288)
        return self._training(stage["training"], [(config["encoder"], tokens)])

    def _ict(self, config: Any, passages: Callable[[str], float]) -> _Formula:
        retriever = config["retriever"]
        tokens = retriever["query_tokens"] + retriever["passage_tokens"]
        return self._training(config["ict"]["training"], [(retriever["encoder"], tokens)])

    def _pretrain(self, config: Any, passages: Callable[[str], float]) -> _Formula:
        stage, retriever = config["pretrain"], config["retriever"]
        k, query, passage = stage["candidates"], stage["query_tokens"], stage["passage_tokens"]
        training = self._training(
            stage["training"],
            [(config["encoder"], k * (query + passage)), (retriever["encoder"], query + k * passage)],
        )
        refresh = stage["index_refresh"]
        every = (refresh["every"] or math.inf) * refresh["staleness"]
        rebuilt = stage["training"]["steps"] // every + 1
        index = self._encoding(retriever, passages("corpus"))
        kept = 2.0 + (rebuilt if stage.get("keep_snapshots") else 0.0)
        return _Formula(
            training.seconds + rebuilt * index.seconds,
            training.memory + index.memory,
            training.disk + kept * (index.disk + 4 * _weights(retriever["encoder"])),
        )

    def _index(self, config: Any, passages: Callable[[str], float]) -> _Formula:
        return self._encoding(config["retriever"], passages("corpus"))

    def _zero_shot(self, config: Any, passages: Callable[[str], float]) -> _Formula:
        retriever = config["retriever"]
        encode = QUESTIONS * retriever["query_tokens"] * _forward(retriever["encoder"]) / self._rate(ENCODE_RATE)
        found = self._search(retriever, passages("corpus"))
        return _Formula(encode + found.seconds, found.memory, QUESTIONS * 100)

    def _finetune(self, config: Any, passages: Callable[[str], float]) -> _Formula:
        stage, retriever = config["finetune"], config["retriever"]
        read = stage["passages_read"] * (retriever["query_tokens"] + stage["passage_tokens"])
        training = self._training(
            stage["training"], [(config["encoder"], READABLE * read), (retriever["encoder"], retriever["query_tokens"])]
        )
        found = self._search(retriever, passages("corpus"))
        share = stage["training"]["steps"] * stage["training"]["batch_size"] / QUESTIONS
        return _Formula(training.seconds + found.seconds * share, training.memory + found.memory, training.disk)

    def _evaluate(self, config: Any, passages: Callable[[str], float]) -> _Formula:
        stage, retriever = config["finetune"], config["retriever"]
        read = stage["passages_read"] * (retriever["query_tokens"] + stage["passage_tokens"])
        seconds = QUESTIONS * read * _forward(config["encoder"]) / self._rate(ENCODE_RATE)
        found = self._search(retriever, passages("corpus"))
        return _Formula(seconds + found.seconds, found.memory + 5e8, QUESTIONS * 300)

    def _training(self, training: Mapping[str, Any], read: list[tuple[Mapping[str, Any], float]]) -> _Formula:
        """`read`: encoders, and the word pieces each reads for one example."""
        examples = training["steps"] * training["batch_size"]
        operations = sum(3 * examples * tokens * _forward(encoder) for encoder, tokens in read)
        weights = sum(_weights(encoder) for encoder, _ in read)
        batch = training["batch_size"] / self.machine.devices
        # 34 two-byte activations a token, layer and unit of width (Korthikanti et al. 2022), without attention maps.
        kept = sum(34 * batch * tokens * _shape(encoder)[0] * _shape(encoder)[1] for encoder, tokens in read)
        # Weights, gradients and Adam's two moments in float32; the result and two checkpoints with them.
        return _Formula(operations / self._rate(TRAIN_RATE), 16 * weights + kept, 4 * weights + 24 * weights)

    def _encoding(self, retriever: Mapping[str, Any], passages: float) -> _Formula:
        operations = passages * retriever["passage_tokens"] * _forward(retriever["encoder"])
        size = passages * 4 * (retriever["projection"] or _shape(retriever["encoder"])[1])
        return _Formula(operations / self._rate(ENCODE_RATE), 1.5 * size, size)

    def _search(self, retriever: Mapping[str, Any], passages: float) -> _Formula:
        width = retriever["projection"] or _shape(retriever["encoder"])[1]
        return _Formula(2 * QUESTIONS * passages * width / self._rate(SEARCH_RATE), 4 * passages * width, 0.0)


def _shape(encoder: Mapping[str, Any]) -> tuple[int, int, int]:
    if encoder["kind"] == "scratch":
        return encoder["layers"], encoder["hidden_size"], 4096
    return next(shape for part, shape in CHECKPOINTS.items() if part in str(encoder["name"]).lower())


def _forward(encoder: Mapping[str, Any]) -> float:
    """Operations a token: two a weight of the layers, which have 12 times the square of the width."""
    layers, width, _ = _shape(encoder)
    return 2.0 * 12 * layers * width**2


def _weights(encoder: Mapping[str, Any]) -> float:
    layers, width, vocabulary = _shape(encoder)
    return 12.0 * layers * width**2 + (vocabulary + 514) * width


def machine_memory() -> float:
    """Bytes of memory this process may use: the machine's, or its control group's limit."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, float(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return total
