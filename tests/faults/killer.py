"""Kills `rlm run` with everything it started, at chosen moments and after random delays, and compares what is left."""

import contextlib
import csv
import io
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.end_to_end.workplace import environment

PATIENCE = 300  # seconds until a run that does not end is a failure
COSTS = ("core_seconds", "gpu_seconds", "stages_without_cost", "tokens_per_second")
TIMES = ("events.jsonl", "builder.log", "speed.jsonl", "knn.json")
"""Files that tell how long something took."""
PREDICTIONS = {"evaluate-*/predictions.jsonl", "knn_evaluate-*/documents.jsonl", "mt_translate-*/translations.jsonl"}


@dataclass(frozen=True)
class Moment:
    """When to kill: up to `within` seconds after something was seen."""

    name: str
    within: float
    count: int = 1


# Stages by name; `refresh` is a new file among the snapshots of pre-training, `table` the time after the last stage,
# `reports` that after the table was printed.
REALM = (
    Moment("corpus", 1.5),
    Moment("salient_spans", 1.5),
    Moment("ict", 1.5),
    Moment("warm_start", 1),
    Moment("pretrain", 3, 3),
    Moment("refresh", 0.4, 4),
    Moment("index", 0.3, 2),
    Moment("finetune", 1, 2),
    Moment("evaluate", 0.5, 2),
    Moment("zero_shot", 0.3),
    Moment("table", 4, 2),
    Moment("reports", 0.5, 2),
)
KNN_LM = (
    Moment("documents", 0.5, 2),
    Moment("retro_train", 2, 2),
    Moment("datastore", 0.3, 4),
    Moment("datastore_index", 0.2, 2),
    Moment("knn_search", 0.2, 4),
    Moment("knn_evaluate", 0.3, 2),
    Moment("table", 2),
    Moment("reports", 0.5),
)
KNN_MT = (
    Moment("parallel", 0.5, 2),
    Moment("mt_train", 2, 2),
    Moment("mt_datastore", 0.3, 3),
    Moment("datastore_index", 0.2),
    Moment("mt_translate", 0.5, 5),
    Moment("mt_score", 0.1, 2),
    Moment("table", 2),
    Moment("reports", 0.5),
)


def finished(store: Path) -> dict[str, int]:
    """When each finished stage's record was written."""
    records = (store / "stages").glob("*/stage.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in records if path.parent.suffix != ".tmp"}


def snapshot_files(store: Path) -> set[str]:
    return {str(path) for path in (store / "stages").glob("pretrain-*.tmp/snapshots/*/*")} | {
        str(path) for path in (store / "stages").glob("pretrain-*.tmp/snapshots/*")
    }


class Attempt:
    """One process of `rlm run`, and what it has said so far; options begin with the table."""

    def __init__(self, workplace: Path, options: tuple[str, ...]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlm", "run", *options],
            cwd=workplace,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def running(self) -> str:
        """The name of the stage that runs, or what `rlm run` does itself."""
        told = [line for line in list(self.lines) if ": started" in line or ": done [" in line or line[:2] == "# "]
        if not told:
            return "start"
        if told[-1].startswith("# "):
            return "reports"
        return told[-1].split()[1].rpartition("-")[0] if ": started" in told[-1] else "table"

    def wait(self) -> str:
        """Until it ends by itself; what it said."""
        code = self.process.wait(PATIENCE)
        self._reader.join(10)
        assert code == 0, "".join(self.lines)
        return "".join(self.lines)

    def kill(self, everything: bool) -> None:
        """SIGKILL for the process and all it started, or for it alone: then the others must end by themselves."""
        parent = psutil.Process(self.process.pid)
        family = [*parent.children(recursive=True)]
        for member in [parent, *(family if everything else [])]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive, f"outlived the run that started them: {[process.cmdline() for process in alive]}"


@dataclass
class Killer:
    """Runs a table in a store again and again, and kills it; `finish` lets it end."""

    workplace: Path
    store: Path
    options: tuple[str, ...]
    stages: set[str]
    """The folders of all stages of the table."""
    random: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    written: dict[str, int] = field(default_factory=dict)

    def seen(self, attempt: Attempt, moment: Moment) -> Callable[[], bool]:
        if moment.name == "refresh":
            before = snapshot_files(self.store)
            return lambda: bool(snapshot_files(self.store) - before) or self.left("pretrain") == 0
        if moment.name == "table":
            return lambda: self.left() == 0
        return lambda: attempt.running() == moment.name

    def left(self, name: str = "") -> int:
        """Stages of a name that are not finished."""
        return sum(stage.startswith(name) for stage in self.stages - finished(self.store).keys())

    def kill_at(self, moment: Moment) -> bool:
        """One attempt; False where the moment is over, or the run ended before it could be killed."""
        stage = {"refresh": "pretrain"}.get(moment.name, moment.name)
        if moment.name not in ("table", "reports") and not self.left(stage):
            return False
        attempt, end = Attempt(self.workplace, self.options), time.monotonic() + PATIENCE
        seen = self.seen(attempt, moment)
        while not seen() and attempt.process.poll() is None:
            assert time.monotonic() < end, f"{moment.name} was not reached:\n{''.join(attempt.lines)}"
            time.sleep(0.005)
        time.sleep(self.random.uniform(0, moment.within))
        if attempt.process.poll() is not None:
            attempt.wait()
            self.check_kept()
            return False
        hit = "table" if moment.name == "table" and attempt.running() == "start" else attempt.running()
        self.kills["refresh" if (moment.name, hit) == ("refresh", "pretrain") else hit] += 1
        attempt.kill(everything=self.random.random() < 0.75)
        self.check_kept()
        return True

    def check_kept(self) -> None:
        """No finished stage was written again."""
        now = finished(self.store)
        assert self.written.items() <= now.items(), {k for k, when in self.written.items() if now.get(k) != when}
        self.written = now

    def finish(self) -> str:
        said = Attempt(self.workplace, self.options).wait()
        self.check_kept()
        return said


def results(store: Path) -> dict[str, dict[str, str]]:
    """The SHA-256 of every file of every stage, but for those that hold times."""
    hashes = {}
    for path in (store / "stages").glob("*/stage.json"):
        files = json.loads(path.read_text())["files"]
        hashes[path.parent.name] = {name: file["sha256"] for name, file in files.items() if not name.endswith(TIMES)}
    return hashes


def predictions(store: Path) -> dict[str, str]:
    """What the table's figures are computed from."""
    found = (path for pattern in PREDICTIONS for path in (store / "stages").glob(pattern))
    return {path.parent.name: path.read_text() for path in found}


def table(workplace: Path, options: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows that `rlm table` prints, without what is measured in time."""
    command = [sys.executable, "-m", "rlm", "table", *options, "--format", "csv"]
    done = subprocess.run(command, cwd=workplace, env=environment(), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return without_costs(done.stdout)


def without_costs(text: str) -> list[dict[str, str]]:
    rows = csv.DictReader(io.StringIO(text))
    return [{name: value for name, value in row.items() if not name.startswith(COSTS)} for row in rows]
