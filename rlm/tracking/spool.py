"""Files of the spool: what is ordered, and how far its delivery came (imports nothing heavy)."""

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
    try:
        return (folder / "stage.json").stat().st_mtime_ns
    except OSError:
        return 0


def read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write(path: Path, value: Mapping[str, Any]) -> None:
    """Atomically, so that a reader or a crash never sees half a file."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)
