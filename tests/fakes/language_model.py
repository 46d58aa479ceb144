"""A model that is measured on documents: what a new model brings, and no line of the reports for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlm.stages import models
from rlm.stages.columns import Logged, Plot, bits_per_byte, percent_of_questions, perplexity
from rlm.stages.models import Model
from rlm.stages.stage import VERSIONS, Stage
from rlm.table import AblationTable, Cell, distinct_stages, load_table
from tests.report.store import write_stage

TABLE = """
title: Neighbours
paper: Someone 2021
base: base.yaml
model: language_model
datasets: [wiki]
seeds: [0, 1]
columns: [bits_per_byte, perplexity]
baseline: "Off"
rows:
  "Off": {}
  one: {neighbours: 1}
  two: {neighbours: 2}
trends:
  - bits_per_byte: two < one < Off
  - perplexity: Off > two
reported:
  source: Table 1
  two: {wiki: {bits_per_byte: 0.9876, perplexity: 12.3}}
"""
BASE = "texts: {wiki: {documents: 300}, news: {documents: 30}}\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A text."""

    documents: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageModelExperiment:
    """One row."""

    texts: dict[str, Text]
    neighbours: int = 0
    pieces: int = 4
    """Bytes in a token."""


def _stages(e: LanguageModelExperiment, dataset: str, seed: int, content: Callable[[Any], str]) -> dict[str, Stage]:
    text = Stage(name="fake_text", config=e.texts[dataset])
    train = Stage(name="fake_train", config={"neighbours": e.neighbours, "pieces": e.pieces}, seed=seed)
    measure = Stage(name="fake_perplexity", config={"k": e.neighbours}, inputs={"text": text, "model": train})
    return {"text": text, "train": train, "perplexity": measure}


MODEL = Model(
    experiment=LanguageModelExperiment,
    datasets=lambda e: tuple(e.texts),
    stages=_stages,
    columns=lambda e: (
        bits_per_byte(
            role="perplexity",
            over_steps=Plot(
                title="Bits per byte over training",
                panels=(Logged(stage="fake_perplexity", metric="bits_per_byte", title="bits/byte", marked=True),),
            ),
        ),
        perplexity(role="perplexity"),
        percent_of_questions(
            "solved", "solved", role="perplexity", file="documents.jsonl", right=lambda x: x["nats"] > 300
        ),
    ),
    measured_on=lambda e, dataset: f"the first {e.texts[dataset].documents} of the test split",
    check=lambda e: [] if e.neighbours >= 0 else [f"neighbours: found {e.neighbours}; write 0 or more"],
    plots=(Plot(title="Gate", panels=(Logged(stage="fake_train", metric="gate", title="gate"),)),),
    live=("gate",),
)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it a model that tables may name."""
    monkeypatch.setitem(models.MODELS, "language_model", MODEL)
    for name in ("fake_text", "fake_train", "fake_perplexity"):
        monkeypatch.setitem(VERSIONS, name, 1)


def write_table(folder: Path, *edits: tuple[str, str]) -> Path:
    """The table's file, with some of its text replaced."""
    text = TABLE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    (folder / "base.yaml").write_text(BASE)
    (folder / "neighbours.yaml").write_text(text)
    return folder / "neighbours.yaml"


def read_table(folder: Path, *edits: tuple[str, str], **options: Any) -> tuple[AblationTable, list[Cell]]:
    """The table and its cells."""
    table = load_table(write_table(folder, *edits), **options)
    return table, table.cells(lambda source: "")


def documents(cell: Cell) -> list[dict[str, Any]]:
    """What the language model of a cell needs for each document: lengths differ a hundredfold."""
    config: Mapping[str, int] = cell.stages["train"].config
    count = cell.stages["text"].config.documents
    rng = np.random.default_rng(5)
    lengths = np.exp(rng.normal(7, 1, count)).astype(int) + 40
    hard = rng.normal(1.1, 0.2, count)
    noise = np.random.default_rng((cell.seed, config["neighbours"])).normal(0, 0.02, count)
    bits = lengths * (hard * (1 - 0.05 * config["neighbours"]) + noise)
    return [
        {"id": f"d{i}", "nats": float(b * log(2)), "bytes": int(n), "tokens": int(-(-n // config["pieces"]))}
        for i, (b, n) in enumerate(zip(bits, lengths, strict=True))
    ]


def finish(store: Path, cells: list[Cell]) -> None:
    """Finish all stages with made-up results."""
    for stage, (cell, *_) in distinct_stages(cells).values():
        if stage.name == "fake_perplexity":
            lines = documents(cell)
            nats, read, tokens = (sum(line[name] for line in lines) for name in ("nats", "bytes", "tokens"))
            figures = {
                "bits_per_byte": nats / log(2) / read,
                "perplexity": exp(nats / tokens),
                "solved": 100 * float(np.mean([line["nats"] > 300 for line in lines])),
            }
            steps = [{"step": step, "bits_per_byte": 3 - step / 100} for step in (0, 50, 100)]
            write_stage(store, stage, figures, {"documents.jsonl": lines, "steps.jsonl": steps})
        elif stage.name == "fake_train":
            events = [{"step": s, "time": 0.0, "metrics": {"loss": 9 / s, "gate": s / 90}} for s in range(10, 100, 10)]
            write_stage(store, stage, {"loss": 0.1}, {"events.jsonl": events})
        else:
            write_stage(store, stage, {}, {"data.jsonl": []})
