"""Bringing one run of MLflow up to what a stage's folder holds; the only importer of mlflow."""

import json
import logging
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from rlm.errors import StageError
from rlm.secrets import without_secrets
from rlm.stage_record import RECORD, is_count, is_number, parse_json, read_record
from rlm.tracking import spool
from rlm.tracking.view import ARTIFACTS, Shown, cut_tags, database, milliseconds

# Files of a finished stage that become artifacts of its run, where they exist, beside its results.
FILES_SHOWN = (RECORD, "steps.jsonl", "report.json", "events.jsonl")
COSTS = ("seconds", "core_seconds", "gpu_seconds", "peak_memory_bytes", "disk_bytes")
# MLflow's own limits.
METRICS_PER_BATCH, PARAMS_PER_BATCH, RUNS_PER_PAGE = 1000, 100, 1000
PARAM_LENGTH = 6000


# Two processes must not make a database, or an experiment, at once; in the spool.
CLIENT_LOCK = "client.lock"


class Delivery:
    """One pass over orders, with MLflow's client; used in the tracker's thread."""

    def __init__(self, store: Path, uri: str):
        # A server that is away must be found away in seconds; a user's own settings win.
        for name, value in {
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # A connection that is kept would go on with the file of a database that was removed.
            **({"MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool"} if database(uri) else {}),
        }.items():
            os.environ.setdefault(name, value)
        for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.client"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self.store = store
        self.uri = uri
        self.experiments: dict[str, str] = {}
        with FileLock(store / "spool" / CLIENT_LOCK, timeout=120):
            _make_tables(uri)
            self.client = MlflowClient(tracking_uri=uri)
            self.client.search_experiments(max_results=1)

    def shown(self, experiments: Collection[str]) -> dict[str, Shown]:
        """The runs of experiments that the server shows, by identifier."""
        runs: dict[str, Shown] = {}
        for name in experiments:
            found = self.client.get_experiment_by_name(name)
            page = "" if found is not None and found.lifecycle_stage == "active" else None
            while found is not None and page is not None:
                listed = self.client.search_runs([found.experiment_id], max_results=RUNS_PER_PAGE, page_token=page)
                runs.update((run.info.run_id, _shown(run)) for run in listed)
                page = listed.token or None
        return runs

    def deliver(self, order: Path, closing: bool) -> None:
        """Bring one run up to what its folder holds; `closing` marks a run that goes no further as killed."""
        wanted, path = spool.read_order(order), spool.state_path(order)
        finished, running = spool.stage_folders(self.store, wanted["folder"])
        done = finished.is_dir()
        folder = finished if done else running
        made = spool.stamp(finished)
        state = self._open_run(wanted, spool.read_state(order))
        spool.write(path, state)
        if state["tags"] != wanted["tags"]:
            self._set_tags(state["run_id"], wanted["tags"])
            state["tags"] = wanted["tags"]
        for progress in self._log_events(folder / "events.jsonl", state):
            state = progress
            spool.write(path, state)
        if done:
            self._finish(finished, state["run_id"], wanted.get("results", []))
            state |= {"final": made, "ended": "FINISHED"}
        elif wanted["failed"] or closing:
            state["ended"] = "FAILED" if wanted["failed"] else "KILLED"
            self.client.set_terminated(state["run_id"], state["ended"])
        spool.write(path, state)

    def _open_run(self, wanted: Mapping[str, Any], state: dict[str, Any]) -> dict[str, Any]:
        """The state with a run that exists and is open: a requeued stage goes on in its run."""
        from mlflow.exceptions import MlflowException

        if state.get("run_id"):
            try:
                run = self.client.get_run(state["run_id"])
                if run.info.lifecycle_stage != "active":
                    state = {}
                elif state.get("ended") and not _shown(run).agrees(state):
                    state |= {"tags": {}, "offset": 0, "steps": {}}  # MLflow keeps once what it is told twice.
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                state = {}
        name, _, key = wanted["folder"].rpartition("-")
        if not state.get("run_id"):
            experiment = self._experiment(wanted["experiment"])
            # A crash between the run's creation and our note of it leaves a run that is found by its key.
            found = self.client.search_runs([experiment], f"tags.key = '{key}'", max_results=1)
            tags = {**wanted["tags"], "stage": name, "key": key}
            if found:
                run = found[0]
            else:
                title = f"{name} - {tags['row']}" if tags.get("row") else name
                run = self.client.create_run(experiment, tags=cut_tags(tags), run_name=title)
            state = {"run_id": run.info.run_id, "tags": wanted["tags"] if not found else {}, "offset": 0, "steps": {}}
        elif state.get("ended"):
            self.client.update_run(state["run_id"], status="RUNNING")
        return {**state, "ended": None, "final": None}

    def _experiment(self, name: str) -> str:
        """Identifier of the experiment, made where there is none."""
        if name not in self.experiments:
            with FileLock(self.store / "spool" / CLIENT_LOCK, timeout=120):
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    # A server chooses its own place for artifacts; the store's database has them beside it.
                    place = (self.store / ARTIFACTS).as_uri() if self.uri.startswith("sqlite:") else None
                    self.experiments[name] = self.client.create_experiment(name, artifact_location=place)
                else:
                    if found.lifecycle_stage != "active":
                        self.client.restore_experiment(found.experiment_id)
                    self.experiments[name] = found.experiment_id
        return self.experiments[name]

    def _set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run, tags=[RunTag(name, value) for name, value in cut_tags(tags).items()])

    def _log_events(self, path: Path, state: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Log the metrics over steps not logged before; yields the state after each batch."""
        from mlflow.entities import Metric

        if spool.size(path) < state["offset"]:
            state = {**state, "offset": 0}  # Begun anew; the steps below are skipped.
        batch: dict[tuple[str, int], Metric] = {}
        steps, offset = dict(state["steps"]), state["offset"]

        def flush() -> dict[str, Any]:
            self.client.log_batch(state["run_id"], metrics=list(batch.values()))
            for name, step in batch:
                steps[name] = max(step, steps.get(name, -1))
            batch.clear()
            return {**state, "offset": offset, "steps": dict(steps)}

        for end, event in _events(path, offset):
            now = [(_metric_name(name), value) for name, value in event["metrics"].items()]
            if len(batch) + len(now) > METRICS_PER_BATCH:
                yield flush()
            for name, value in now:
                # A resumed stage repeats the steps after its checkpoint: in one batch the last wins.
                if event["step"] > steps.get(name, -1):
                    batch[name, event["step"]] = Metric(name, value, int(event["time"] * 1000), event["step"])
            offset = end
        yield flush() if batch else {**state, "offset": offset, "steps": steps}

    def _finish(self, folder: Path, run: str, results: Sequence[str]) -> None:
        """Configuration, summary, cost and artifacts of a finished stage; may be repeated."""
        from mlflow.entities import Metric, Param

        record = read_record(folder, needs=())
        params = [Param(name, value[:PARAM_LENGTH]) for name, value in flatten(record.get("config") or {})]
        for first in range(0, len(params), PARAMS_PER_BATCH):
            self.client.log_batch(run, params=params[first : first + PARAMS_PER_BATCH])
        git = record.get("git") or {}
        tags = {"seed": record.get("seed"), "git_commit": git.get("commit"), "git_dirty": git.get("dirty")}
        self._set_tags(run, {name: str(value) for name, value in tags.items() if value is not None})
        # The file's time, so that a repetition is the same measurement, which MLflow keeps once.
        when = milliseconds(spool.stamp(folder))
        summary = {**{name: record.get(name) for name in COSTS}, **record.get("metrics", {})}
        metrics = [Metric(_metric_name(n), float(v), when, 0) for n, v in summary.items() if v is not None]
        for first in range(0, len(metrics), METRICS_PER_BATCH):
            self.client.log_batch(run, metrics=metrics[first : first + METRICS_PER_BATCH])
        for name in [*FILES_SHOWN, *results]:
            if (folder / name).is_file():
                self.client.log_artifact(run, str(folder / name))
        self.client.set_terminated(run, "FINISHED", when)


def flatten(config: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and values of a nested configuration, as MLflow's parameters."""
    if isinstance(config, Mapping) and config:
        for name, value in config.items():
            yield from flatten(value, f"{path}.{name}" if path else str(name))
    elif path:
        yield _allowed(path), without_secrets(config if isinstance(config, str) else json.dumps(config))


def _events(path: Path, offset: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Whole lines from a byte offset on, each with the offset of its end; a line that a crash cut off is skipped."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield offset, _event(line) or {"step": 0, "time": 0.0, "metrics": {}}


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = parse_json(line)
    except ValueError:
        return None
    match event:
        case {"step": int(step), "time": int(time) | float(time), "metrics": dict(metrics)}:
            if is_count(step) and 0 <= time < 1e15 and all(map(is_number, metrics.values())):
                return {"step": step, "time": time, "metrics": metrics}
    return None


def _shown(run: Any) -> Shown:
    return Shown(run.info.status, run.info.end_time, run.data.tags)


def is_refusal(error: Exception) -> bool:
    """Whether the one order is at fault, not the connection."""
    refused = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
    ours = (StageError, LookupError, TypeError, ValueError, ArithmeticError)
    return isinstance(error, ours) or getattr(error, "error_code", None) in refused


def _allowed(name: str) -> str:
    return re.sub(r"[^\w.\-: /]", "_", name)


def _metric_name(name: str) -> str:
    """MLflow allows no `@`: `recall@5` becomes `recall_at_5`."""
    return _allowed(name.replace("@", "_at_"))


def _make_tables(uri: str) -> None:
    """Make a database's tables in another file, which takes its name when it is whole: MLflow refuses half of them."""
    from mlflow import MlflowClient

    path = database(uri)
    if path is None or spool.size(path):
        return
    for left in path.parent.glob(f"{path.name}.*part*"):  # by a process that was killed
        left.unlink(missing_ok=True)
    # A new name: MLflow's client makes the tables of a file once.
    part = path.with_name(f"{path.name}.{time.time_ns()}.part")
    MlflowClient(tracking_uri=f"sqlite:///{part}").search_experiments(max_results=1)
    if spool.size(path):  # another client made it meanwhile
        part.unlink()
    else:
        part.replace(path)
