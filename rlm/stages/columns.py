"""What rows are measured by: columns, and plots of what stages log, defined beside the model that writes them.

A stage writes one line for each unit that it measures (a question, a document) into a JSON Lines file, with the unit's
`id`. A column reads from a line the unit's value and weight, and is the ratio of their sums: a mean where every weight
is 1. BLEU and chrF, which are no ratio, read a unit's statistics in place of a value. Imports nothing heavy; reports
read nothing of a model but this.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log
from typing import Any, Literal

Aggregate = Literal["ratio", "exp_ratio", "bleu", "chrf"]
"""Sum of the units' values over the sum of their weights; its exponential, as perplexity is; or the function of sums of
the units' statistics in `rlm.metrics.translation`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Logged:
    """A metric that stages log over steps, as the axes of a plot."""

    stage: str
    """The stages' name."""
    metric: str
    title: str
    marked: bool = False
    """Whether each point is a measurement of its own, not one of a dense series."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """Curves over steps, drawn where there is any."""

    title: str
    panels: tuple[Logged, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnCurve:
    """Columns over a number, a line for each row, drawn where a table has two of them or more."""

    title: str
    x_label: str
    """Of the number, with its unit."""
    points: tuple[tuple[float, str], ...]
    """The number and the column's name, rising; all columns are in one unit."""
    log2: bool = False
    """Whether doublings of the number are equally far apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Against:
    """One column over another, a point for each row, drawn where a table has both and rows differ in the second."""

    title: str
    y: str
    """A column's name."""
    x: str
    """Likewise; rows where it is 0 are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """A figure over two numbers, from a JSON file that a stage writes; drawn for the first row that has it."""

    title: str
    role: str
    """Of the stage."""
    file: str
    """In its folder."""
    x_label: str
    y_label: str
    read: Callable[[Mapping[str, Any]], tuple[list[float], list[float], list[list[float]]]] = field(compare=False)
    """x, y, and the figures [y][x], from the file's content."""
    better: Literal["higher", "lower"] = "lower"
    decimals: int = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Single cases, from a JSON Lines file that a stage writes; shown for the first row that has it."""

    title: str
    role: str
    file: str
    header: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], list[str]] = field(compare=False)
    """One case's cells, from its line."""
    names: int = 1
    """Columns of words before those of figures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One figure of a row, measured on units that the statistics resample."""

    name: str
    """In table files."""
    label: str
    """In words."""
    role: str
    """Of the stage that measures it; it is run where a table has the column."""
    file: str
    """In that stage's folder, one line for each unit."""
    metric: str = ""
    """Among the metrics of that stage; empty where it has the column's name."""
    read: Callable[[Mapping[str, Any]], tuple[float | Sequence[float], float]] = field(compare=False)
    """A unit's value, or statistics, and weight, from its line."""
    aggregate: Aggregate = "ratio"
    units: str
    """What is resampled, in the plural: `questions`, `documents`."""
    unit: str
    """Of the figure: `percent`, `bits/byte`; empty where it has none."""
    difference_unit: str
    """Of a difference of two figures: `percentage points`."""
    better: Literal["higher", "lower"] = "higher"
    decimals: int
    compared_weights: str = ""
    """What the weights count (`tokens`), where figures compare only if they agree; empty where they need not."""
    determined_by: str = ""
    """What alone determines the figure, in words, where the stage's inputs do: rows that share them must agree."""
    over_steps: Plot | None = None
    """The figure over training."""
    always: bool = False
    """Shown in every table of the model, which must not be read without it."""
    setting: bool = False
    """What the row reads with, or how fast, not how good it is: it has no plot, and no test against the baseline."""

    def shown(self, figure: float) -> str:
        """With its decimals."""
        return f"{figure:.{self.decimals}f}"

    def signed(self, difference: float) -> str:
        """With its decimals and sign; what would be shown as 0 has none."""
        if abs(difference) < 0.5 * 10**-self.decimals:
            return self.shown(0.0)
        return f"{difference:+.{self.decimals}f}".replace("-", "−")


def percent_of_questions(
    name: str,
    label: str,
    *,
    role: str,
    file: str,
    right: Callable[[Mapping[str, Any]], Any],
    determined_by: str = "",
    over_steps: Plot | None = None,
) -> Column:
    """The share of questions that are got right, percent.

    Args:
        name: of the column.
        label: in words.
        role: of the stage that asks.
        file: its lines, one for each question.
        right: whether a line's question is got right.
        determined_by: as in `Column`.
        over_steps: as in `Column`.
    """
    return Column(
        name=name,
        label=label,
        role=role,
        file=file,
        read=lambda line: (100.0 * bool(right(line)), 1.0),
        units="questions",
        unit="percent",
        difference_unit="percentage points",
        decimals=1,
        determined_by=determined_by,
        over_steps=over_steps,
    )


def bits_per_byte(*, role: str, file: str = "documents.jsonl", over_steps: Plot | None = None) -> Column:
    """Bits that a language model needs for a byte of the raw text, from lines `{"id", "nats", "bytes"}`.

    `nats` is the sum of a document's negative log-likelihoods, `bytes` the length of its text in UTF-8, whatever the
    tokenizer.
    """
    return Column(
        name="bits_per_byte",
        label="bits per byte",
        role=role,
        file=file,
        read=lambda line: (line["nats"] / log(2), line["bytes"]),
        units="documents",
        unit="bits/byte",
        difference_unit="bits/byte",
        better="lower",
        decimals=3,
        over_steps=over_steps,
    )


def leakage_columns(thresholds: Sequence[float], *, role: str) -> tuple[Column, ...]:
    """Bits per byte of the chunks that share at most so much with their neighbours, and how much text that is.

    From lines `{"id", "nats": [...], "bytes": [...]}` with a sum for each threshold, the last of which keeps all. Rows
    compare only where they keep the same chunks.

    Args:
        thresholds: percent, as in `LeakageConfig`.
        role: of the stage `leakage`.
    """
    return tuple(
        column for place, threshold in enumerate(thresholds) for column in _at_most(place, f"{threshold:g}", role)
    )


def _at_most(place: int, threshold: str, role: str) -> tuple[Column, Column]:
    kept = f"at ≤ {threshold} % overlap"
    needed = replace(
        bits_per_byte(role=role, file="leakage.jsonl"),
        name=f"bits_per_byte@{threshold}",
        label=f"bits per byte {kept}",
        read=lambda line: (line["nats"][place] / log(2), line["bytes"][place]),
        compared_weights="bytes",
    )
    return needed, Column(
        name=f"bytes_kept@{threshold}",
        label=f"bytes {kept}",
        role=role,
        file="leakage.jsonl",
        read=lambda line: (100 * line["bytes"][place], line["bytes"][-1]),
        units="documents",
        unit="percent",
        difference_unit="percentage points",
        decimals=1,
    )


def leakage_curve(thresholds: Sequence[float]) -> ColumnCurve:
    """Bits per byte over the threshold (2112.04426, figure 6)."""
    return ColumnCurve(
        title="Bits per byte by overlap",
        x_label="largest overlap kept, percent of a chunk",
        points=tuple((threshold, f"bits_per_byte@{threshold:g}") for threshold in thresholds),
        log2=True,
    )


def perplexity(*, role: str, file: str = "documents.jsonl", over_steps: Plot | None = None) -> Column:
    """Perplexity a token, from lines `{"id", "nats", "tokens"}`; not compared between other numbers of tokens."""
    return Column(
        name="perplexity",
        label="perplexity",
        role=role,
        file=file,
        read=lambda line: (line["nats"], line["tokens"]),
        aggregate="exp_ratio",
        units="documents",
        unit="",
        difference_unit="",
        better="lower",
        decimals=2,
        compared_weights="tokens",
        over_steps=over_steps,
    )


def corpus_metric(
    metric: Literal["bleu", "chrf"], label: str, *, role: str, name: str = "", always: bool = False
) -> Column:
    """BLEU or chrF of a whole test set, from lines `{"id", METRIC: statistics}`, resampled over sentences.

    Args:
        metric: which.
        label: in words.
        role: of the stage that scores.
        name: of the column; empty takes the metric's.
        always: as in `Column`.
    """
    return Column(
        name=name or metric,
        label=label,
        role=role,
        file="sentences.jsonl",
        metric=metric,
        read=lambda line: (line[metric], 1.0),
        aggregate=metric,
        units="sentences",
        unit="percent",
        difference_unit="points",
        decimals=2,
        always=always,
    )


def tokens_per_second(*, role: str, units: str, file: str = "speed.jsonl") -> Column:
    """Tokens written, or searched for, per second, from lines `{"id", "tokens", "seconds"}`; what else the machine did
    is not told."""
    return Column(
        name="tokens_per_second",
        label="tokens/s",
        role=role,
        file=file,
        read=lambda line: (line["tokens"], line["seconds"]),
        units=units,
        unit="tokens/s",
        difference_unit="tokens/s",
        decimals=0,
        setting=True,
    )


def read_beside(name: str, label: str, *, role: str, decimals: int, file: str = "documents.jsonl") -> Column:
    """A number that a row's model reads with, such as lambda: chosen, or a mean over tokens."""
    return Column(
        name=name,
        label=label,
        role=role,
        file=file,
        read=lambda line: (line[name] * line["tokens"], line["tokens"]),
        units="documents",
        unit="",
        difference_unit="",
        decimals=decimals,
        setting=True,
    )


def tokens_helped(*, role: str, file: str = "documents.jsonl") -> Column:
    """Share of tokens that are likelier than by the language model alone, from lines `{"id", "helped", "tokens"}`."""
    return Column(
        name="tokens_helped",
        label="tokens helped",
        role=role,
        file=file,
        read=lambda line: (100 * line["helped"], line["tokens"]),
        units="documents",
        unit="percent",
        difference_unit="percentage points",
        decimals=1,
    )
