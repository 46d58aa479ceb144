"""Orders to MLflow, and the thread that delivers them without ever stopping or losing a run."""

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from rlm.tracking import spool
from rlm.tracking.delivery import Delivery, is_refusal

log = logging.getLogger(__name__)

SHARED = "(shared)"
# Seconds: between looks at running stages, and before a server that was away is asked again.
LOOK_EVERY, RETRY_AFTER = 5.0, 30.0


def tracking_uri(store: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else a database in the store (MLflow no longer takes plain folders)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.resolve()}/mlflow.db"


def run_tags(
    table: str, rows: Sequence[str], datasets: Sequence[str], seed: int | None, commit: str = ""
) -> dict[str, str]:
    """Tags of a stage's run: `row` and `dataset` name the only one that uses the stage, else `(shared)`."""
    tags = {"table": table, "row": rows[0] if len(rows) == 1 else SHARED, "rows": ", ".join(rows)}
    tags["dataset"] = datasets[0] if len(datasets) == 1 else SHARED
    tags["datasets"] = ", ".join(datasets)
    if seed is not None:
        tags["seed"] = str(seed)
    if commit:
        tags["git_commit"] = commit
    return tags


class Tracker:
    """Delivers stages to MLflow without ever stopping or losing a run.

    Nothing of MLflow is imported until something is to be delivered.

    Args:
        store: the store's folder.
        experiment: MLflow's experiment, one per table.
    """

    def __init__(self, store: Path, experiment: str):
        self.store = store.resolve()
        self.experiment = experiment
        self.uri = tracking_uri(self.store)
        self.folder = self.store / "spool"
        with suppress(OSError):  # A store that cannot be written is refused by whoever runs stages.
            self.folder.mkdir(parents=True, exist_ok=True)
        self._watched: set[Path] = set()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        for order in self.pending():
            self._watch(order)

    def deliver(
        self, stage_folder: Path, tags: Mapping[str, str], failed: bool = False, results: Sequence[str] = ()
    ) -> None:
        """Order a stage's run; returns at once.

        Order a running stage (`<name>-<key>.tmp`, or the name it will get) when it starts, and again when it has
        finished or failed; between, its new metrics are delivered every few seconds. A stage that is already
        delivered costs a look at two small files.

        Args:
            stage_folder: of the stage.
            tags: of its run.
            failed: whether it failed.
            results: names of its files that become artifacts, beside those that every stage may have.
        """
        name = stage_folder.name.removesuffix(".tmp")
        order = self._order_path(name)
        wanted = {
            "folder": name,
            "experiment": self.experiment,
            "tags": dict(tags),
            "failed": failed,
            "results": list(results),
        }
        try:
            if spool.read(order) != wanted:
                spool.write(order, wanted)
        except OSError as error:
            log.warning("%s is not ordered for MLflow (%s); the next `rlm run` orders it", name, error)
            return
        if self._is_pending(order) or not (self.store / "stages" / name).is_dir():
            self._watch(order)

    def pending(self) -> list[Path]:
        """Orders to this server that are not fully delivered, of every table of the store."""
        return [order for order in sorted(self.folder.glob(f"*.{self._server()}.json")) if self._is_pending(order)]

    def close(self, timeout: float = 60.0) -> bool:
        """Deliver what is left, for at most `timeout` seconds; what is not delivered stays in the spool.

        Returns:
            whether everything was delivered.
        """
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)
        left = len(self.pending())
        if left:
            log.warning("%d MLflow runs wait in %s; the next `rlm run` or `rlm ui` delivers them", left, self.folder)
        return not left

    def _server(self) -> str:
        return hashlib.sha256(self.uri.encode()).hexdigest()[:8]

    def _order_path(self, name: str) -> Path:
        table = hashlib.sha256(self.experiment.encode()).hexdigest()[:8]
        return self.folder / f"{name.rpartition('-')[2]}.{table}.{self._server()}.json"

    def _is_pending(self, order: Path) -> bool:
        wanted, state = spool.read(order), spool.read(spool.state_path(order))
        if not wanted:
            return False
        finished, running = spool.stage_folders(self.store, wanted["folder"])
        if not finished.is_dir() and not running.is_dir():
            return False
        if state.get("tags") != wanted["tags"]:
            return True
        if finished.is_dir():
            return state.get("final") != spool.stamp(finished)
        ended = wanted["failed"] and state.get("ended") != "FAILED"
        return ended or spool.size(running / "events.jsonl") > state.get("offset", 0)

    def _watch(self, order: Path) -> None:
        with self._guard:
            self._watched.add(order)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
                self._thread.start()
        self._wake.set()

    def _work(self) -> None:
        """The thread: deliver, look again, and never raise."""
        warned, away_until = False, 0.0
        while True:
            closing = self._closing.is_set()
            with self._guard:
                orders = sorted(self._watched)
            if orders and time.monotonic() >= away_until:
                try:
                    self._deliver_all(orders, closing)
                    away_until = 0.0
                except Exception as error:  # MLflow raises whatever its store, client or server does.
                    away_until = time.monotonic() + RETRY_AFTER
                    if not warned:
                        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
                        log.warning("MLflow (%s) is away, the run goes on: %s", _without_password(self.uri), reason)
                        warned = True
            if closing:
                return
            self._wake.wait(LOOK_EVERY if orders else None)
            self._wake.clear()

    def _deliver_all(self, orders: list[Path], closing: bool) -> None:
        delivery: Delivery | None = None
        for order in orders:
            if self._is_pending(order) or (closing and self._is_open(order)):
                delivery = delivery or Delivery(self.store, self.uri)
                try:
                    with FileLock(f"{order}.lock", timeout=0):
                        delivery.deliver(order, closing)
                except Timeout:
                    continue  # Another process delivers this very order.
                except Exception as error:
                    if not is_refusal(error):
                        raise
                    log.warning("MLflow refuses the run of %s: %s", order.name, error)
                    self._forget(order)
            wanted = spool.read(order)
            if not wanted or wanted["failed"] or spool.stage_folders(self.store, wanted["folder"])[0].is_dir():
                self._forget(order)

    def _forget(self, order: Path) -> None:
        with self._guard:
            self._watched.discard(order)

    def _is_open(self, order: Path) -> bool:
        """Whether MLflow shows the run as running."""
        state = spool.read(spool.state_path(order))
        return bool(state.get("run_id")) and not state.get("final") and not state.get("ended")


def _without_password(uri: str) -> str:
    """The address without its password."""
    return re.sub(r"//[^@/]*@", "//", uri)
