"""One command on the other machine: the tasks it does, what it brings out, and what it says of itself."""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gpu.jobs import JOBS, Job, Task, finished, read_jobs, tasks
from benchmarks.gpu.merge import Results, take_up
from benchmarks.gpu.parts import MANIFEST, MIB, write_whole
from benchmarks.gpu.profiling import IDLE, Sampler, faulty, profile, read_events
from benchmarks.gpu.profiling import table as profile_table
from rlm.config import Runtime
from rlm.data.content import content_digest
from rlm.errors import ConfigError, StageError
from rlm.launch import Event, LocalPool, run_stages
from rlm.report import render
from rlm.stage_record import read_record
from rlm.stages.cost import package_versions
from rlm.stages.stage import Stage
from rlm.stages.store import stage_folder

CLOSING = 20.0
"""Seconds before the end in which nothing is computed: the report is written."""
WORTH_STARTING = 10.0
"""Seconds that must be left for another task."""
LOG = 4 * MIB
"""Bytes of the log that comes back, at most."""


class TimeIsOver(Exception):
    """What is not finished now goes on with the next command."""


class TimedPool(LocalPool):
    """Raises `TimeIsOver` where nothing is left of the time; stages that run are left to be resumed.

    Args:
        store: the store's folder.
        runtime: how and where.
        left: seconds left.
    """

    def __init__(self, store: Path, runtime: Runtime, left: Callable[[], float]) -> None:
        super().__init__(store, runtime)
        self._left = left

    def wait(self, seconds: float) -> list[Event]:
        """Events since the last call."""
        if self._left() <= 0:
            raise TimeIsOver
        return super().wait(max(0.0, min(seconds, self._left())))


class Session:
    """One command on the machine.

    Args:
        options: of the command line.
        there: paths of the files that have been unpacked.
        notes: what was wrong with the parts.
        end: when the command must have ended, on the monotonic clock.
    """

    def __init__(self, options: argparse.Namespace, there: set[str], notes: list[str], end: float) -> None:
        self.options, self.there, self.start, self.end = options, there, time.monotonic(), end
        self.closing = min(CLOSING, 0.2 * (end - self.start))
        self.store, self.data = options.work / "store", options.work / "data"
        self.jobs = read_jobs(options.jobs or JOBS)
        self.log_path = options.out / "log.txt"
        self.log_path.write_bytes(b"")
        self.failed: dict[str, str] = {}
        self.waiting: list[str] = []
        self.slowest_table = 3.0
        """Seconds that it took, or is expected to take, to print one."""
        self.manifest = json.loads((options.parts / MANIFEST).read_text())
        for note in notes:
            self.log(note)
        self.sampler = Sampler()
        self.results = Results(options.out)
        self.pool: TimedPool | None = None
        self._came = self._take_up()

    def log(self, text: str) -> None:
        """A line with the seconds since the start."""
        line = f"{time.monotonic() - self.start:7.1f} s  {text}"
        print(line, flush=True)
        if self.log_path.stat().st_size < LOG:
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def left(self) -> float:
        """Seconds left to compute in."""
        return self.end - self.closing - time.monotonic()

    def _take_up(self) -> set[str]:
        """Earlier results; the names of all that came from elsewhere."""
        self.store.mkdir(exist_ok=True)
        files = sorted({*(self.options.work / "results").glob("*.zip"), *self.options.parts.rglob("results-*.zip")})
        taken, wrong = take_up(files, self.store)
        for line in wrong:
            self.log(line)
        known = self.options.work / "came.json"  # survives the command, as the store does
        came = {*taken, *(json.loads(known.read_text()) if known.is_file() else ())}
        known.write_text(json.dumps(sorted(came)))
        self.log(f"{len(taken)} results taken up")
        return came

    def bring(self, folder: Path) -> None:
        """Put a folder of the store where it can be taken away."""
        if f"{folder.parent.name}/{folder.name}" not in self._came and not self.results.add(folder):
            self.log(f"{folder.name}: no room for it in what is taken away")

    def run(self) -> int:
        """All tasks in their order, until the time is over."""
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, _stop)
        try:
            self._resume()
            for job in self.jobs:
                self._job(job)
            self.log("all jobs were looked at")
        except TimeIsOver:
            self.log("the time is over")
        finally:
            for name in (signal.SIGTERM, signal.SIGINT):
                signal.signal(name, signal.SIG_IGN)
            if self.pool is not None:
                self.pool.close()
            self.sampler.close()
        for tables in (False, True):  # there is a report if printing tables takes too long
            self.report(tables)
        return 1 if self.failed else 0

    def _resume(self) -> None:
        """What this machine finished before may not have been taken away."""
        for folder in (path for kind in ("measures", "records") for path in (self.store / kind).glob("*")):
            self.bring(folder)

    def _job(self, job: Job) -> None:
        needs = self.manifest["needs"].get(job.name)
        if needs is None or not self.there.issuperset(needs):
            self.waiting.append(job.name)
            why = "was not packed" if needs is None else "waits for other parts"
            self.log(f"{job.name} {why}")
            return
        for task in tasks(job, self.data):
            for stage in [] if job.measure else task.leaves:
                if finished(stage, self.store):  # perhaps by an earlier command, whose files were not taken away
                    self.bring(stage_folder(self.store, stage))
            if not task.done(self.store) and not self.failed.keys() & task.stages.keys():
                if self.left() < WORTH_STARTING * min(1.0, self.closing / CLOSING):
                    raise TimeIsOver
                self.log(f"{task.name} (about {job.minutes:g} min)")
                self._task(task)
                self.report(tables=False)

    def _task(self, task: Task) -> None:
        stages, done = task.to_compute(self.store)
        leaves = {stage.key for stage in task.leaves}
        started: dict[str, float] = {}

        def watch(event: Event) -> None:
            stage = stages[event.key]
            if event.kind == "started":
                started[event.key] = time.time()
                self.log(f"  {stage.folder}")
            elif event.kind == "done":
                self._finished(stage, task, started[event.key], event.key in leaves and not task.job.measure)
            elif event.kind != "progress":
                self.log(f"  {stage.folder}: {event.data.get('text') or event.data.get('message')}")

        if stages:
            outcome = run_stages(stages, done, self._pool(), watch)
            self.failed.update(outcome.failed)
            if outcome.failed:
                return
        if task.job.measure:
            self._measure(task)

    def _pool(self) -> TimedPool:
        """The processes that compute stages; they live until the end."""
        if self.pool is None:
            workers = self.options.workers
            if workers is None:
                workers = 6 if self.sampler.gpu else 0  # the warm start's passages come from BM25
            runtime = Runtime(store=self.store, data=self.data, jobs=self.options.at_a_time, workers=workers)
            self.pool = TimedPool(self.store, runtime, self.left)
        return self.pool

    def _finished(self, stage: Stage, task: Task, start: float, leaf: bool) -> None:
        """Write down where the time went, and bring out what a table reads."""
        folder = stage_folder(self.store, stage)
        record, events = read_record(folder), read_events(folder / "events.jsonl")
        shown = profile(record, events, task.name, start, time.time(), self.sampler)
        record_folder = self.store / "records" / folder.name
        record_folder.mkdir(parents=True, exist_ok=True)
        (record_folder / "stage.json").write_text(json.dumps(record))
        (record_folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        (record_folder / "profile.json").write_text(json.dumps(shown))
        self.log(f"  {folder.name}: done in {shown['s']:.1f} s")
        for each in [folder, record_folder] if leaf else [record_folder]:
            self.bring(each)

    def _measure(self, task: Task) -> None:
        """In a process of its own, which has all of the GPU."""
        if self.pool is not None:
            self.pool.close()
            self.pool = None
        inputs = {} if task.cell is None else task.cell.stages[task.job.of].inputs
        folders = {role: str(stage_folder(self.store, stage)) for role, stage in inputs.items()}
        part = self.options.work / "measured" / task.job.name
        part.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.gpu.measures", task.job.measure, str(part / "table.md")]
        command += [json.dumps(folders), json.dumps(task.job.options)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, self.left()))
        except subprocess.TimeoutExpired:
            raise TimeIsOver from None
        if done.returncode:
            self.failed[task.job.name] = (done.stderr.strip().splitlines() or ["no word"])[-1]
            self.log(f"  failed: {done.stderr[-2000:]}")
            return
        target = self.store / "measures" / task.job.name
        target.parent.mkdir(exist_ok=True)
        part.rename(target)
        self.bring(target)

    def report(self, tables: bool) -> None:
        """What was done, where the time went, and the tables."""
        lines = [f"# {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: {self.sampler.name}, {os.cpu_count()} cores", ""]
        versions = package_versions()
        named = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "transformers", "lightning"))
        spent = (time.monotonic() - self.start) / 60
        lines += [f"{named}; packed at commit {self.manifest['commit']}; {spent:.1f} min so far."]
        if self.waiting:
            lines += ["", f"Not all that they need has arrived: {', '.join(self.waiting)}."]
        lines += [*(f"\nFailed: {what}: {why}" for what, why in self.failed.items())]
        found = (json.loads(path.read_text()) for path in (self.store / "records").glob("*/profile.json"))
        profiles = sorted(found, key=lambda shown: shown["when"])
        faults = [shown["stage"] for shown in profiles if faulty(shown)]
        lines += ["", "## Where the time went, in seconds", "", *profile_table(profiles), ""]
        lines += [f"Left the GPU idle for more than {IDLE:.0%}: {', '.join(faults)}."] if faults else []
        for path in sorted((self.store / "measures").glob("*/table.md")):
            lines += ["", f"## {path.parent.name}", "", path.read_text().rstrip()]
        for job in self.jobs if tables else ():
            if job.table and not job.measure and job.name not in self.waiting:
                lines += ["", f"## {job.name}", "", f"`{shlex.join(job.command)}`", "", self._table(job)]
        write_whole(self.options.out / "report.md", ("\n".join(lines) + "\n").encode())

    def _table(self, job: Job) -> str:
        """As `rlm table` prints it, where there is time for it."""
        start = time.monotonic()
        if self.end - start < 2 * self.slowest_table:
            return "No time was left to print it."
        try:
            table = job.load()
            return render(table, table.cells(lambda source: content_digest(source, self.data)), self.store, "markdown")
        except (ConfigError, StageError, OSError) as error:
            return f"It cannot be printed: {error}"
        finally:
            self.slowest_table = max(self.slowest_table, time.monotonic() - start)


def _stop(*_: object) -> None:
    raise TimeIsOver
