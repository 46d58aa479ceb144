"""`rlm data`: checks a data folder, or fetches a data set into one."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from rlm.data import checking, hub

WORDS = {"passages": "passages", "questions": "questions", "tags": "sentences with tags"}


def main(options: argparse.Namespace) -> int:
    """Check or fetch."""
    if options.action == "check":
        return check(options)
    with _progress() as shown:
        task = shown.add_task(options.dataset, total=None)
        files = hub.fetch(
            options.dataset,
            options.out,
            options.limit,
            lambda what, done: shown.update(task, description=f"{what}: {done:,}"),
        )
    for path in files:
        print(path)
    return 0


def check(options: argparse.Namespace) -> int:
    """Print a line for every file and one for every problem; 1 where there is one."""
    wrong = 0
    with _progress() as shown:
        files, _ = checking.walk(options.folder)
        task = shown.add_task(f"reading {options.folder}", total=sum(map(_size, files)))

        def progress(path: Path, done: int) -> None:
            shown.update(task, description=f"reading {path}: {done:,}")

        for report in checking.check_folder(options.folder, progress):
            wrong += bool(report.problems)
            shown.advance(task, _size(report.path))
            for line in (*report.problems, *report.notes):
                print(line)
            if report.kind == "unknown" and not report.problems:
                print(f"not checked  {report.path}")
            elif not report.problems:
                print(f"OK           {report.path}: {report.records:,} {WORDS[report.kind]}")
    if wrong:
        print(f"{wrong} files have problems")
    return 1 if wrong else 0


def _size(path: Path) -> int:
    """Bytes; 0 of what cannot be reached."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _progress() -> Progress:
    """On standard error, and only while a terminal shows it."""
    console = Console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
