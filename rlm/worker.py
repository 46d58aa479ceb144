"""A process of the local pool: `python -m rlm.worker`. Computes one stage after another, told by JSON lines.

Imports of torch and Lightning cost seconds, so a worker lives as long as its pool. When the pool's end of the pipe
closes, for whatever reason, the worker ends at once with every process it started.
"""

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from multiprocessing import reduction
from pathlib import Path
from typing import Any, TextIO

from rlm.build import build
from rlm.config import Runtime
from rlm.secrets import hidden_secrets, hide_in_file, without_secrets
from rlm.stage_record import parse_json
from rlm.stages.stage import Stage
from rlm.stages.store import LOG, explain_os_error, run_stage, stage_folder, work_folder
from rlm.stages.wire import unpack
from rlm.yaml_file import Document

_SECONDS_BETWEEN_PROGRESS = 0.2


class _PipeReporter:
    """Tells the pool, by JSON lines. A process spawned for DDP gets the same pipe."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._last = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {"pipe": reduction.DupFd(self._out.fileno())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(os.fdopen(state["pipe"].detach(), "w", encoding="utf-8"))  # type: ignore[misc]

    def send(self, kind: str, **data: Any) -> None:
        with self._lock:
            self._out.write(json.dumps({"kind": kind, **data}) + "\n")
            self._out.flush()

    def progress(self, done: int, total: int, shown: Mapping[str, float]) -> None:
        now = time.monotonic()
        if done < total and now - self._last < _SECONDS_BETWEEN_PROGRESS:
            return
        self._last = now
        self.send("progress", done=done, total=total, shown={name: float(value) for name, value in shown.items()})

    def note(self, text: str) -> None:
        self.send("note", text=without_secrets(text))


def main() -> None:
    """Read requests from standard input until it closes."""
    requests_from, answers_to = os.dup(0), os.dup(1)
    # A stage's own prints and child processes must not touch the pipes.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    reporter = _PipeReporter(os.fdopen(answers_to, "w", encoding="utf-8"))
    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read, args=(requests_from, requests), daemon=True).start()
    reporter.send("ready")
    with hidden_secrets():
        while True:
            _answer(requests.get(), reporter)


def _read(descriptor: int, requests: "queue.Queue[dict[str, Any]]") -> None:
    # Half a request is the pool's death.
    with os.fdopen(descriptor, encoding="utf-8") as lines, contextlib.suppress(ValueError):
        for line in lines:
            requests.put(parse_json(line))
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _answer(request: Mapping[str, Any], reporter: _PipeReporter) -> None:
    store = Path(request["store"])
    try:
        runtime = build(Runtime, Document(request["runtime"]))
        stage = unpack(request["stage"])
        with _log(stage, store):
            run_stage(stage, store, runtime, reporter)
    except BaseException as error:  # Whatever a stage raises, the worker goes on to the next.
        explained = explain_os_error(error, store) if isinstance(error, OSError) else error
        reporter.send("failed", message=without_secrets(_message(explained)))
    else:
        reporter.send("done")


@contextlib.contextmanager
def _log(stage: Stage, store: Path) -> Iterator[None]:
    """Send everything that is printed, by Python or not, to the stage's log."""
    folder, work = stage_folder(store, stage), work_folder(store, stage)
    log = os.open(work / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    kept = os.dup(1), os.dup(2)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # A full disk takes no traceback, and must not hide what failed.
            traceback.print_exc()
        raise
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        for target, source in zip((1, 2), kept, strict=True):
            os.dup2(source, target)
            os.close(source)
        os.close(log)
        for place in (folder, work):  # What libraries and child processes wrote past our streams.
            hide_in_file(place / LOG)
        # Another process may have finished the stage: then the folder holds nothing but this log.
        with contextlib.suppress(OSError):
            if [path.name for path in work.iterdir()] == [LOG] and folder.exists():
                (work / LOG).unlink()
                work.rmdir()


def _message(error: BaseException) -> str:
    text = str(error) or "no message"
    return text if isinstance(error, (ValueError, RuntimeError)) and str(error) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    main()
