"""What MLflow shows now, to compare with what it was told (imports nothing heavy)."""

import contextlib
import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Tags that a finished stage's own record has the last word on.
_OF_RECORD = ("seed", "git_commit")
# Folder beside the store's database.
ARTIFACTS = "mlartifacts"
# MLflow's own limit.
TAG_LENGTH = 5000
_LOCKED_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Shown:
    """A run that is not deleted."""

    status: str
    ended: int | None
    """Milliseconds since 1970."""
    tags: Mapping[str, str]

    def agrees(self, state: Mapping[str, Any]) -> bool:
        """Whether the run is as the state of its order says: a database put back from a backup shows an older one."""
        ended = milliseconds(state["final"]) if state.get("final") else None
        told = {name: value for name, value in cut_tags(state["tags"]).items() if name not in _OF_RECORD}
        return self.status == state.get("ended") and ended in (None, self.ended) and told.items() <= self.tags.items()


class DatabaseDamaged(Exception):
    """The file is no database, or a part of one."""


def milliseconds(stamp: int) -> int:
    """The time that MLflow is told of a record's time stamp."""
    return stamp // 1_000_000


def cut_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """As long as MLflow takes them."""
    return {name: str(value)[:TAG_LENGTH] for name, value in tags.items()}


def database(uri: str) -> Path | None:
    """The file of an SQLite database; None where runs are kept by something else."""
    return Path(uri.removeprefix("sqlite:///")) if re.fullmatch(r"sqlite:///[^?]+", uri) else None


def runs_in(path: Path) -> dict[str, Shown] | None:
    """The runs that a database of MLflow shows, by identifier, read without MLflow, whose import takes seconds.

    Returns:
        None where they cannot be told, as in a database that is locked or has other columns.

    Raises:
        DatabaseDamaged: it is no whole database.
    """
    if not path.exists():
        return {}
    try:
        with contextlib.closing(_open(path)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone():
                return {}
            return dict(_runs(connection, path.absolute().with_name(ARTIFACTS)))
    except (sqlite3.OperationalError, OSError, TypeError, ValueError):
        return None
    except sqlite3.DatabaseError as error:
        raise DatabaseDamaged(str(error)) from None


def is_whole(path: Path) -> bool:
    """Whether SQLite finds no damage in a database; so too where it cannot look."""
    try:
        with contextlib.closing(_open(path)) as connection:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.OperationalError:
        return True
    except sqlite3.DatabaseError:
        return False


def is_damage(error: BaseException | None) -> bool:
    """Whether an error comes from a damaged SQLite database, which errors of MLflow's own wrap."""
    while error is not None:
        if type(getattr(error, "orig", error)) is sqlite3.DatabaseError:
            return True
        error = error.__cause__ or error.__context__
    return False


def put_aside(path: Path) -> Path:
    """Rename a damaged database, with its journals, and say where it is now."""
    aside = path.with_name(f"{path.name}.damaged")
    for suffix in ("-journal", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
    path.replace(aside)
    return aside


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_LOCKED_SECONDS)


def _runs(connection: sqlite3.Connection, artifacts: Path) -> Iterator[tuple[str, Shown]]:
    tags: dict[str, dict[str, str]] = {}
    for run, name, value in connection.execute("SELECT run_uuid, key, value FROM tags"):
        tags.setdefault(run, {})[name] = value
    shown = connection.execute(
        "SELECT r.run_uuid, r.status, r.end_time, r.artifact_uri FROM runs r"
        " JOIN experiments e ON r.experiment_id = e.experiment_id"
        " WHERE r.lifecycle_stage = 'active' AND e.lifecycle_stage = 'active'"
    )
    for run, status, ended, place in shown:
        # A finished stage has artifacts. (The database of a store that was moved names them where they were.)
        gone = str(place).startswith(f"{artifacts.as_uri()}/") and not (artifacts / run).is_dir()
        if status != "FINISHED" or not gone:
            yield run, Shown(status, ended, tags.get(run, {}))
