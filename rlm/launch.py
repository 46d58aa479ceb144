"""Runs stages in the order of their inputs, on a pool of local processes (imports nothing heavy)."""

import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from rlm.config import Runtime, to_plain
from rlm.errors import ConfigError
from rlm.secrets import hide_in_file, without_secrets
from rlm.stage_record import is_number, parse_json
from rlm.stages.stage import Stage
from rlm.stages.store import LOG, explain_os_error, stage_folder
from rlm.stages.wire import pack

# glibc gives freed memory back by default, and page faults cost more than the training step's own work.
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
# oneDNN keeps the kernels of the last 1,024 shapes; batches of text have new shapes in every step, and the memory of a
# training would grow by a gigabyte and more for kernels that are not met again.
FEWER_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a stage on a launcher."""

    kind: Literal["started", "progress", "note", "done", "failed", "lost"]
    """`failed`: the stage raised; `lost`: its process ended without a word."""
    key: str
    data: Mapping[str, Any] = field(default_factory=dict)
    """`done`, `total`, `shown` of progress; `text` of a note; `message` of `failed` and `lost`."""


class Launcher(Protocol):
    """Where stages are computed. A cluster joins by these four methods."""

    def free(self) -> int:
        """How many more stages may be submitted now."""

    def submit(self, stage: Stage) -> None:
        """Start to compute a stage whose inputs are finished."""

    def wait(self, seconds: float) -> list[Event]:
        """What happened, waiting so long for the first event."""

    def close(self) -> None:
        """Stop everything; stages that run are left to be resumed."""


@dataclass
class Outcome:
    """How each stage ended, by key."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """The message of each failure."""
    skipped: dict[str, str] = field(default_factory=dict)
    """The failed stage each one waited for."""


def run_stages(
    stages: Mapping[str, Stage],
    finished: set[str],
    launcher: Launcher,
    watch: Callable[[Event], None],
    cost: Callable[[Stage], float] = lambda stage: 1.0,
) -> Outcome:
    """Compute every stage once its inputs are done: first those that read the user's files, for they may find a mistake
    there, then those with the longest way to go.

    A failed stage takes those that depend on it with it; the others go on. A stage whose process died is started
    once more.

    Args:
        stages: by key.
        finished: keys that need no computing.
        launcher: where.
        watch: is told every event.
        cost: expected seconds of a stage, for the order only.
    """
    outcome = Outcome()
    waiting = {key: stage for key, stage in stages.items() if key not in finished}
    done, lost = set(finished), set[str]()
    priority = _remaining(waiting, cost)
    running: set[str] = set()
    while waiting or running:
        ready = [key for key, stage in waiting.items() if all(i.key in done for i in stage.inputs.values())]
        for key in sorted(ready, key=lambda key: (not _reads(stages[key]), -priority[key]))[: launcher.free()]:
            launcher.submit(waiting.pop(key))
            running.add(key)
            watch(Event("started", key))
        if not running:
            raise RuntimeError(f"stages wait for inputs that nobody computes: {sorted(waiting)}")
        for event in launcher.wait(0.5):
            if event.kind == "lost" and event.key not in lost:
                lost.add(event.key)
                running.discard(event.key)
                waiting[event.key] = stages[event.key]
                watch(Event("note", event.key, {"text": f"{event.data['message']}; starting it once more"}))
                continue
            watch(event)
            if event.kind == "done":
                running.discard(event.key)
                done.add(event.key)
                outcome.done.append(event.key)
            elif event.kind in ("failed", "lost"):
                running.discard(event.key)
                outcome.failed[event.key] = event.data["message"]
                _skip(event.key, waiting, outcome)
    return outcome


def _reads(stage: Stage) -> bool:
    """Whether a stage reads what is not of the store."""
    return bool(stage.content) or not stage.inputs


def _remaining(stages: Mapping[str, Stage], cost: Callable[[Stage], float]) -> dict[str, float]:
    """The expected seconds from each stage's start to the end of the last one that needs it."""
    after: dict[str, list[str]] = {key: [] for key in stages}
    for key, stage in stages.items():
        for source in stage.inputs.values():
            if source.key in after:
                after[source.key].append(key)
    remaining: dict[str, float] = {}

    def measure(key: str) -> float:
        if key not in remaining:
            remaining[key] = cost(stages[key]) + max((measure(later) for later in after[key]), default=0.0)
        return remaining[key]

    for key in stages:
        measure(key)
    return remaining


def _skip(failed: str, waiting: dict[str, Stage], outcome: Outcome) -> None:
    gone = {failed}
    while True:
        more = [key for key, stage in waiting.items() if any(i.key in gone for i in stage.inputs.values())]
        if not more:
            return
        for key in more:
            del waiting[key]
            outcome.skipped[key] = failed
            gone.add(key)


def log_file(stage: Stage, store: Path) -> Path:
    """Where a stage that did not finish wrote what it printed."""
    return stage_folder(store, stage).with_name(stage.folder + ".tmp") / LOG


def gpu_memory(runtime: Runtime) -> list[float]:
    """Bytes of memory of each GPU this process may use, without importing torch."""
    if runtime.device == "cpu":
        return []
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        sizes = [float(line) * 2**20 if line.strip().isdigit() else math.inf for line in listed.stdout.splitlines()]
    except (OSError, subprocess.SubprocessError):
        sizes = []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return sizes
    names = [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [sizes[int(name)] if name.isdigit() and int(name) < len(sizes) else math.inf for name in names]


@dataclass(frozen=True, slots=True)
class Share:
    """How the machine is divided among the stages that run at a time."""

    jobs: int
    threads: int
    """Cores of one stage."""
    gpus: tuple[float, ...]
    """Bytes of memory of each GPU."""


def share(runtime: Runtime) -> Share:
    """`runtime.jobs` and `runtime.threads`, else one stage per GPU, or per two cores, and an equal share of cores.

    Raises:
        ConfigError: GPUs are asked for and none was found.
    """
    cores = len(os.sched_getaffinity(0))
    gpus = tuple(gpu_memory(runtime))
    if runtime.device == "cuda" and not gpus:
        raise ConfigError(
            "--device cuda: nvidia-smi shows no GPU; name them by CUDA_VISIBLE_DEVICES, or use --device cpu"
        )
    jobs = runtime.jobs or max(1, len(gpus) // runtime.devices if gpus else cores // 2)
    return Share(jobs, runtime.threads or max(1, cores // jobs), gpus)


@dataclass(eq=False)
class _Member:
    process: "subprocess.Popen[str]"
    slot: int
    stage: Stage | None = None


class LocalPool:
    """Processes on this machine, each with its GPUs or its share of the cores; started when first needed."""

    def __init__(self, store: Path, runtime: Runtime) -> None:
        """The number of members is `runtime.jobs`, else one per GPU, else one per two cores."""
        divided = share(runtime)
        self.jobs = divided.jobs
        self._gpus = len(divided.gpus)
        self._store = store.resolve()
        self._runtime = replace(
            runtime,
            store=self._store,
            data=runtime.data.resolve() if runtime.data is not None else None,
            threads=divided.threads,
        )
        self._members: list[_Member] = []
        self._events: queue.Queue[Event] = queue.Queue()
        self._closing = False
        self._lock = threading.Lock()

    def free(self) -> int:
        """Members without a stage."""
        return self.jobs - sum(member.stage is not None for member in self._members)

    def submit(self, stage: Stage) -> None:
        """Give a stage to an idle member."""
        try:
            with self._lock:
                member = next((member for member in self._members if member.stage is None), None) or self._start()
                member.stage = stage
        except OSError as error:  # No space or right for its log, no process to be had: the other stages are told all.
            explained = explain_os_error(error, self._store)
            self._events.put(Event("failed", stage.key, {"message": f"no worker could be started: {explained}"}))
            return
        runtime = {name: str(v) if isinstance(v, Path) else v for name, v in to_plain(self._runtime).items()}
        request = {"stage": pack(stage), "store": str(self._store), "runtime": runtime}
        assert member.process.stdin is not None
        with contextlib.suppress(OSError):  # It died while idle: its reader reports the stage as lost.
            member.process.stdin.write(json.dumps(request) + "\n")
            member.process.stdin.flush()

    def wait(self, seconds: float) -> list[Event]:
        """Events since the last call."""
        events = []
        try:
            events.append(self._events.get(timeout=seconds))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            return events

    def close(self) -> None:
        """End every member with all it started: a closed pipe is the sign."""
        self._closing = True
        for member in self._members:
            assert member.process.stdin is not None
            with contextlib.suppress(OSError):
                member.process.stdin.close()
        for member in self._members:
            try:
                member.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                os.killpg(member.process.pid, signal.SIGKILL)
                member.process.wait()
            self._hide_secrets(member)
        self._members.clear()

    def _start(self) -> _Member:
        taken = {member.slot for member in self._members}
        slot = min(set(range(self.jobs)) - taken)
        threads = str(self._runtime.threads)
        environment = {
            **os.environ,
            **KEEP_FREED_MEMORY,
            **FEWER_KERNELS,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "RAYON_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "true" if threads != "1" else "false",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONIOENCODING": "utf-8:backslashreplace",  # whatever a stage prints goes to its log
        }
        if self._gpus:
            names = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(self._gpus)))).split(",")
            devices = self._runtime.devices
            first = slot * devices % self._gpus
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(names[first : first + devices])
        logs = self._store / "workers"
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / f"{slot}.log").open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "rlm.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=environment,
                start_new_session=True,
            )
        member = _Member(process, slot)
        self._members.append(member)
        threading.Thread(target=self._read, args=(member,), daemon=True).start()
        return member

    def _read(self, member: _Member) -> None:
        assert member.process.stdout is not None
        with contextlib.suppress(OSError, ValueError):  # The pipe broke: what matters is how the process ended.
            for line in member.process.stdout:
                kind, data = _message(line)
                stage = member.stage
                if kind == "ready" or stage is None:
                    continue
                if kind in ("done", "failed"):
                    member.stage = None
                self._events.put(Event(kind, stage.key, data))
        code = member.process.wait()
        if self._closing:
            return
        with contextlib.suppress(OSError):  # What the worker had started must not go on writing.
            os.killpg(member.process.pid, signal.SIGKILL)
        self._hide_secrets(member)
        with self._lock:
            self._members.remove(member)
            stage = member.stage
        if stage is not None:
            self._events.put(Event("lost", stage.key, {"message": self._death(code, member)}))

    def _hide_secrets(self, member: _Member) -> None:
        """In what a process that is no more has written."""
        hide_in_file(self._store / "workers" / f"{member.slot}.log")
        if member.stage is not None:
            hide_in_file(log_file(member.stage, self._store))

    def _death(self, code: int, member: _Member) -> str:
        if code == -signal.SIGKILL:
            return (
                "its process was killed, most likely because memory ran out: run fewer stages at a time (--jobs 1),"
                " or lower the stage's batch_size"
            )
        if code < 0:
            number = -code
            name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
            return f"its process was ended by {name}"
        return f"its process ended with code {code}; see {self._store / 'workers' / f'{member.slot}.log'}"


def _message(line: str) -> tuple[Any, dict[str, Any]]:
    """Kind and data of what a worker says; a note of anything else that came through its pipe."""
    try:
        message = parse_json(line)
    except ValueError:
        message = None
    match message:
        case {"kind": "ready" | "done" as kind}:
            return kind, {}
        case {"kind": "failed", "message": str(text)}:
            return "failed", {"message": text}
        case {"kind": "note", "text": str(text)}:
            return "note", {"text": text}
        case {"kind": "progress", "done": int(done), "total": int(total), "shown": dict(shown)}:
            figures = {name: value for name, value in shown.items() if is_number(value)}
            return "progress", {"done": done, "total": total, "shown": figures}
    return "note", {"text": f"its process wrote what is no message: {without_secrets(line.strip())[:100]!r}"}
