"""Shows how a run goes: rows by stages on a terminal, plain lines elsewhere (imports nothing heavy at start)."""

import sys
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, TextIO

from rlm.launch import Event
from rlm.stages.stage import Stage

# Figures of any training, shown before those of its model.
SHOWN = ("steps_per_second", "loss")


def grid(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Text columns under a header, aligned; trailing spaces removed."""
    rows = [list(header), *map(list, lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def duration(seconds: float) -> str:
    """Seconds in words: `42 s`, `7 min`, `3.5 h`, `12 days`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def size(amount: float) -> str:
    """Bytes in words: `900 MB`, `1.5 GB`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if amount >= scale:
            return f"{amount / scale:.1f} {unit}" if amount < 99.5 * scale else f"{amount / scale:.0f} {unit}"
    return f"{amount / 1e3:.0f} kB"


def figures(shown: Mapping[str, float], order: Sequence[str] = ()) -> str:
    """A few current figures of a stage in one line: pace and loss, then those in `order`, then others."""
    order = [*SHOWN, *order]
    names = [name for name in dict.fromkeys([*order, *sorted(shown)]) if name in shown]
    return "  ".join(f"{name.replace('steps_per_second', 'steps/s')} {shown[name]:.3g}" for name in names[:4])


@dataclass
class Running:
    """A stage that runs now."""

    stage: Stage
    label: str
    """The rows that need it."""
    order: Sequence[str] = ()
    """Figures shown first."""
    since: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int = 0
    shown: dict[str, float] = field(default_factory=dict)
    first: tuple[float, int] | None = None
    """Time and place of the first progress, since a resumed stage does not start at 0."""
    told: float = 0.0

    def update(self, data: Mapping[str, Any]) -> None:
        """Take in one report of progress."""
        self.done, self.total, self.shown = int(data["done"]), int(data["total"]), dict(data["shown"])
        self.first = self.first or (time.monotonic(), self.done)

    def line(self) -> str:
        """Label, share done, figures, time left."""
        parts = [f"{self.stage.folder} ({self.label})"]
        if self.total:
            parts.append(f"{self.done}/{self.total}")
        parts += [figures(self.shown, self.order)] if self.shown else []
        if self.first and self.done > self.first[1]:
            pace = (time.monotonic() - self.first[0]) / (self.done - self.first[1])
            parts.append(f"{duration(pace * (self.total - self.done))} left")
        return "  ".join(parts)


class View(Protocol):
    """Who is told the events of a run."""

    def __call__(self, event: Event, metrics: Mapping[str, float]) -> None:
        """One event, with the summary metrics of a stage that is done."""


@dataclass
class _Board:
    """What both views keep."""

    stages: Mapping[str, Stage]
    labels: Mapping[str, str]
    order: Sequence[str] = ()
    """Figures shown first."""
    running: dict[str, Running] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    def take(self, event: Event) -> Running | None:
        """Update; returns the stage's state, also of one that just ended."""
        key = event.key
        if event.kind == "started":
            self.running[key] = Running(self.stages[key], self.labels[key], self.order)
        elif event.kind == "progress" and key in self.running:
            self.running[key].update(event.data)
        elif event.kind in ("done", "failed", "lost"):
            (self.done if event.kind == "done" else self.failed).add(key)
            return self.running.pop(key, None)
        return self.running.get(key)


class PlainView:
    """One line when a stage starts and ends, and now and then between."""

    def __init__(
        self,
        stages: Mapping[str, Stage],
        labels: Mapping[str, str],
        finished: set[str],
        order: Sequence[str] = (),
        out: TextIO | None = None,
        every: float = 10.0,
    ) -> None:
        """`order`: figures shown first; `every`: seconds between lines about one stage."""
        self._board = _Board(stages, labels, order, done=set(finished))
        self._out = out or sys.stdout
        self._every = every

    def __enter__(self) -> "PlainView":
        """Start."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to put back."""

    def __call__(self, event: Event, metrics: Mapping[str, float]) -> None:
        """Print what is worth a line."""
        running = self._board.take(event)
        if running is None:
            return
        name = f"{running.stage.folder} ({running.label})"
        if event.kind == "progress":
            now = time.monotonic()
            if now - max(running.told, running.since) >= self._every:
                running.told = now
                self._print(running.line())
        elif event.kind == "done":
            count = f"[{len(self._board.done)}/{len(self._board.stages)}]"
            took = duration(time.monotonic() - running.since)
            self._print(f"{name}: done {count} in {took}  {figures(metrics, running.order)}".rstrip())
        elif event.kind == "note":
            self._print(f"{name}: {event.data['text']}")
        elif event.kind in ("failed", "lost"):
            self._print(f"{name}: failed: {event.data['message']}")
        elif event.kind == "started":
            self._print(f"{name}: started")

    def _print(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=self._out, flush=True)


class LiveView:
    """Rows by stages, redrawn in place, and a bar for each stage that runs."""

    def __init__(
        self,
        stages: Mapping[str, Stage],
        labels: Mapping[str, str],
        finished: set[str],
        rows: Mapping[str, Mapping[str, Sequence[str]]],
        results: Container[str] = (),
        order: Sequence[str] = (),
    ) -> None:
        """`rows`: keys of the stages by row and role; `results`: keys of those whose figures stay on the screen;
        `order`: figures shown first.
        """
        from rich.console import Console
        from rich.live import Live

        self._board = _Board(stages, labels, order, done=set(finished))
        self._rows, self._results = rows, results
        self._roles = list(dict.fromkeys(role for keys in rows.values() for role in keys))
        console = Console(markup=False, emoji=False)
        self._done, self._runs, self._waits = ("ok", "...", ".") if console.options.ascii_only else ("✓", "…", "·")
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def __enter__(self) -> "LiveView":
        """Take the screen."""
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        self._live.__exit__(kind, error, trace)

    def __call__(self, event: Event, metrics: Mapping[str, float]) -> None:
        """Take in an event; what a user must not miss stays above the grid."""
        running = self._board.take(event)
        if running is None:
            return
        if event.kind == "note":
            self._live.console.print(f"{running.stage.folder}: {event.data['text']}", markup=False, highlight=False)
        elif event.kind in ("failed", "lost"):
            text = f"{running.stage.folder}: failed: {event.data['message']}"
            self._live.console.print(text, style="red", markup=False, highlight=False)
        elif event.kind == "done" and metrics and event.key in self._results:
            text = f"{running.stage.folder} ({running.label}): {figures(metrics, running.order)}"
            self._live.console.print(text, markup=False, highlight=False)

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid_table = Table(box=None, pad_edge=False)
        grid_table.add_column("row", overflow="ellipsis", no_wrap=True, max_width=38)
        for role in self._roles:
            grid_table.add_column(role.replace("_", " "), justify="center")
        for row, keys in self._rows.items():
            grid_table.add_row(Text(row), *(Text.from_markup(self._state(keys.get(role, ()))) for role in self._roles))
        bars = Table(box=None, pad_edge=False, show_header=False)
        for running in list(self._board.running.values()):
            total = running.total or None
            bar = ProgressBar(total=total, completed=running.done, width=24, pulse=total is None)
            bars.add_row(bar, Text(running.line(), overflow="ellipsis", no_wrap=True))
        count = f"{len(self._board.done)} of {len(self._board.stages)} stages done"
        return Group(grid_table, Text(""), bars, Text(count, style="dim"))

    def _state(self, keys: Sequence[str]) -> str:
        if not keys:
            return "[dim]-[/dim]"
        if any(key in self._board.failed for key in keys):
            return "[red]failed[/red]"
        running = [self._board.running[key] for key in keys if key in self._board.running]
        done = sum(key in self._board.done for key in keys)
        if done == len(keys):
            return f"[green]{self._done}[/green]"
        if running and running[0].total:
            share = f"{100 * running[0].done // running[0].total} %"
            return f"[cyan]{share}[/cyan]" if len(keys) == 1 else f"[cyan]{done}/{len(keys)} {share}[/cyan]"
        if running:
            return f"[cyan]{self._runs}[/cyan]"
        return f"{done}/{len(keys)}" if done else f"[dim]{self._waits}[/dim]"
