"""Orders to MLflow, and the thread that delivers them without ever stopping or losing a run."""

import hashlib
import logging
import math
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout

from rlm.secrets import plain_without_secrets, without_secrets
from rlm.tracking import spool
from rlm.tracking.delivery import Delivery, is_refusal
from rlm.tracking.view import (
    DatabaseDamaged,
    Shown,
    cut_tags,
    database,
    is_damage,
    milliseconds,
    put_aside,
    runs_in,
)

log = logging.getLogger(__name__)

SHARED = "(shared)"
# Seconds: between looks at running stages, and before a server that was away is asked again.
LOOK_EVERY, RETRY_AFTER = 5.0, 30.0
# Seconds that the end of a run waits for a server to show its runs, where all was delivered.
COMPARE_FOR = 10.0


def tracking_uri(store: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else a database in the store (MLflow no longer takes plain folders)."""
    return _quoted(os.environ.get("MLFLOW_TRACKING_URI", "")) or f"sqlite:///{store.resolve()}/mlflow.db"


def _quoted(uri: str) -> str:
    """An address in whose password `@`, `/`, `?`, `#` and `:` are written as addresses must write them."""
    parts = re.fullmatch(r"([\w+.-]+://[^:/@]+:)(?!\d*/)(.+)@([^@]+)", uri)
    if parts is None:
        return uri
    start, password, host = parts.groups()
    # What is an address as it is may have an `@` in its path, but hardly a port after it.
    if re.fullmatch(r"[^/@?#]+@[^/@?#]+[/?#].*", f"{password}@{host}") and not re.match(r"[^/:]+:\d+", host):
        return uri
    return f"{start}{quote(password, safe='%')}@{host}"


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
        # What MLflow shows, None where that is not known; and the file it was read from, as it was then.
        self._shown: dict[str, Shown] | None = None
        self._database = database(self.uri)
        self._looked_at: object = None
        self._lost = self._told = False
        self._look()
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
            "tags": plain_without_secrets(dict(tags)),
            "failed": failed,
            "results": list(results),
        }
        try:
            if spool.read_order(order) != wanted:
                spool.write(order, wanted)
        except OSError as error:
            if not self._told:
                text = "%s (and what follows) is not ordered for MLflow (%s); the next `rlm run` orders it"
                log.warning(text, name, error)
                self._told = True
            return
        unknown = self._database is None and self._shown is None
        if unknown or self._is_pending(order) or not (self.store / "stages" / name).is_dir():
            self._watch(order)

    def pending(self) -> list[Path]:
        """Orders to this server that are not fully delivered, or not shown any more, of every table of the store."""
        return [order for order in self._orders() if self._is_pending(order)]

    def close(self, timeout: float = 60.0) -> bool:
        """Deliver what is left, for at most `timeout` seconds; what is not delivered stays in the spool.

        Returns:
            whether everything was delivered.
        """
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            end = time.monotonic() + timeout
            self._thread.join(min(timeout, COMPARE_FOR))
            if any(self._is_pending(order) or self._is_open(order) for order in self._orders()):
                self._thread.join(max(0.0, end - time.monotonic()))
        left = len(self.pending())
        if left:
            log.warning("%d MLflow runs wait in %s; the next `rlm run` or `rlm ui` delivers them", left, self.folder)
        return not left

    def _orders(self) -> list[Path]:
        return sorted(self.folder.glob(f"*.{self._server()}.json"))

    def _server(self) -> str:
        """Of the address without its password: with another one it is the same server."""
        address = str(plain_without_secrets(self.uri))
        return hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()[:8]

    def _order_path(self, name: str) -> Path:
        table = hashlib.sha256(self.experiment.encode()).hexdigest()[:8]
        return self.folder / f"{name.rpartition('-')[2]}.{table}.{self._server()}.json"

    def _is_pending(self, order: Path) -> bool:
        wanted, state = spool.read_order(order), spool.read_state(order)
        if not wanted:
            return False
        finished, running = spool.stage_folders(self.store, wanted["folder"])
        if not finished.is_dir() and not running.is_dir():
            return False
        if not state or state["tags"] != wanted["tags"]:
            return True
        if finished.is_dir():
            return state.get("final") != spool.stamp(finished) or not self._is_shown(state)
        if wanted["failed"] and (state.get("ended") != "FAILED" or not self._is_shown(state)):
            return True
        return spool.size(running / "events.jsonl") > state["offset"]

    def _is_shown(self, state: Mapping[str, Any]) -> bool:
        """Whether MLflow shows what it was told, where that can be known."""
        for look in (lambda: None, self._look):  # Another process may have told it since we looked.
            look()
            if self._shown is None:
                return True
            run = self._shown.get(state["run_id"])
            if run is not None and run.agrees(state):
                return True
        return False

    def _look(self) -> None:
        """Read what a database shows, if it has changed; a damaged one of the store's own is put aside."""
        if self._database is None or self._lost:
            return
        now = [spool.stamp_of(self._database.with_name(self._database.name + suffix)) for suffix in ("", "-wal")]
        if now == self._looked_at:
            return
        try:
            self._shown = runs_in(self._database)
        except DatabaseDamaged as error:
            self._shown = {}
            self._put_aside(error)
        self._looked_at = now

    def _put_aside(self, error: Exception) -> None:
        if self._database is None or self._database != self.store / "mlflow.db":
            log.warning("MLflow's database %s is damaged (%s); make it whole, or remove it", self._database, error)
            return
        with suppress(OSError):
            aside = put_aside(self._database)
            log.warning(
                "MLflow's database is damaged (%s): it is %s now, and is made again from the store", error, aside
            )

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
                    if self._database is not None and is_damage(error):
                        # MLflow's client still has the file open: the next command makes another.
                        self._lost, away_until = True, math.inf
                        self._put_aside(error)
                    elif not warned:
                        # Before it is cut: half an address cannot be told.
                        reason = without_secrets(str(error)).strip() or type(error).__name__
                        address, reason = without_secrets(self.uri), reason.splitlines()[0][:200]
                        log.warning("MLflow (%s) is away, the run goes on: %s", address, reason)
                        warned = True
            if closing:
                return
            self._wake.wait(LOOK_EVERY if orders else None)
            self._wake.clear()

    def _deliver_all(self, orders: list[Path], closing: bool) -> None:
        delivery: Delivery | None = None
        if self._database is None and self._shown is None:
            delivery = Delivery(self.store, self.uri)
            self._shown = delivery.shown(
                {wanted["experiment"] for wanted in map(spool.read_order, self._orders()) if wanted}
            )
            orders = sorted({*orders, *self.pending()})
        for order in orders:
            if self._is_pending(order) or (closing and self._is_open(order)):
                delivery = delivery or Delivery(self.store, self.uri)
                try:
                    with FileLock(f"{order}.lock", timeout=0):
                        delivery.deliver(order, closing)
                    self._note(spool.read_state(order))
                except Timeout:
                    continue  # Another process delivers this very order.
                except Exception as error:
                    if is_damage(error) or not is_refusal(error):
                        raise
                    log.warning("MLflow refuses the run of %s: %s", order.name, without_secrets(str(error)))
                    self._forget(order)
            wanted = spool.read_order(order)
            ended = wanted and (wanted["failed"] or spool.stage_folders(self.store, wanted["folder"])[0].is_dir())
            # The stage may have ended while it was delivered as a running one.
            if not wanted or (ended and not self._is_pending(order)):
                self._forget(order)

    def _note(self, state: Mapping[str, Any]) -> None:
        """What a server shows once it was told."""
        if self._database is None and self._shown is not None and state.get("ended"):
            ended = milliseconds(state["final"]) if state.get("final") else None
            self._shown[state["run_id"]] = Shown(state["ended"], ended, cut_tags(state["tags"]))

    def _forget(self, order: Path) -> None:
        with self._guard:
            self._watched.discard(order)

    def _is_open(self, order: Path) -> bool:
        """Whether MLflow shows the run as running."""
        state = spool.read_state(order)
        return bool(state) and not state.get("final") and not state.get("ended")
