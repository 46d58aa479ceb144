"""Files of the spool: what is ordered, and how far its delivery came (imports nothing heavy)."""

import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlm.stage_record import RECORD, is_count, is_file_name, is_folder_name, read_json


def stage_folders(store: Path, name: str) -> tuple[Path, Path]:
    return store / "stages" / name, store / "stages" / f"{name}.tmp"


def state_path(order: Path) -> Path:
    return order.with_suffix(".state")


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def stamp(folder: Path) -> int:
    """Changes when a stage is computed again."""
    return stamp_of(folder / RECORD)


def stamp_of(path: Path) -> int:
    """Nanoseconds since 1970 of a file's last change; 0 of none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def read_order(path: Path) -> dict[str, Any]:
    """What is ordered; empty where it is not there, or damaged: the next `rlm run` orders it again."""
    return _read(path, _is_order)


def read_state(order: Path) -> dict[str, Any]:
    """How far an order's delivery came; empty where nothing is known: its run is looked for, and told all again."""
    return _read(state_path(order), _is_state)


def _read(path: Path, right: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) and right(value) else {}


def _is_order(value: dict[str, Any]) -> bool:
    match value:
        case {"folder": str(folder), "experiment": str(), "tags": dict(tags), "failed": bool(), "results": list(names)}:
            return is_folder_name(folder) and _are_tags(tags) and all(map(is_file_name, names))
    return False


def _is_state(value: dict[str, Any]) -> bool:
    match value:
        case {"run_id": str(run), "tags": dict(tags), "offset": int(), "steps": dict(steps)}:
            ended, final = value.get("ended"), value.get("final")
            return (
                re.fullmatch(r"[\w-]+", run) is not None
                and _are_tags(tags)
                and is_count(value["offset"])
                and all(is_count(step) for step in steps.values())
                and (ended is None or isinstance(ended, str))
                and (final is None or is_count(final))
            )
    return False


def _are_tags(tags: dict[Any, Any]) -> bool:
    return all(isinstance(value, str) for value in tags.values())


def write(path: Path, value: Mapping[str, Any]) -> None:
    """Atomically, so that a reader or a crash never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        temporary.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
