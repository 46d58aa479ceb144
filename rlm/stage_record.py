"""`stage.json`, what a finished stage says about itself, and other JSON of the store: read, never believed."""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from rlm.errors import StageError
from rlm.secrets import without_secrets

RECORD = "stage.json"


class Damaged(StageError):
    """A finished stage with a missing, truncated or changed file."""


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: it is no file (a pipe would be waited for), or no JSON.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path.name}")
    return parse_json(path.read_bytes())


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_record(folder: Path, needs: Collection[str] = ("name", "config", "inputs", "files")) -> dict[str, Any]:
    """The contents of a finished stage's `stage.json`, each field of the form that was written.

    Args:
        folder: of the stage.
        needs: fields that must be there.

    Raises:
        Damaged: it is no JSON, a field is missing, or holds something else.
        StageError: it may not be read.
    """
    try:
        record = read_json(folder / RECORD)
    except PermissionError as error:
        # Nothing says that the stage is damaged: it is not removed.
        raise StageError(f"{folder / RECORD}: may not be read ({error.strerror}); change its permissions") from None
    except (OSError, ValueError) as error:
        raise Damaged(f"{folder.name}: {RECORD} cannot be read ({error})") from None
    if not isinstance(record, dict):
        raise Damaged(f"{folder.name}: {RECORD} is not a stage's record")
    for name in needs:
        if name not in record:
            raise Damaged(f"{folder.name}: {RECORD} has no `{name}`")
    for name, right in _FIELDS.items():
        if name in record and not right(record[name]):
            found = without_secrets(json.dumps(record[name]))[:60]
            raise Damaged(f"{folder.name}: {RECORD} is damaged: `{name}` is {found}")
    return record


def is_file_name(name: object) -> bool:
    """Whether it can be the path of a file below a folder."""
    if not isinstance(name, str) or not name or "\0" in name or name.startswith("/") or ".." in name.split("/"):
        return False
    return not re.search("[\ud800-\udfff]", name)


def is_folder_name(name: object) -> bool:
    """Whether it can be the name of a stage's folder."""
    return is_file_name(name) and "/" not in str(name) and name != "."


def is_number(value: object) -> bool:
    """Whether it is a number that fits in a float, NaN and infinity included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return not isinstance(value, int) or abs(value) < 2**1000


def is_count(value: object) -> bool:
    """Whether it is a whole number of 64 bits, 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_cost(value: object) -> bool:
    return is_number(value) and math.isfinite(float(value)) and float(value) >= 0  # type: ignore[arg-type]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_file(value: object) -> bool:
    return isinstance(value, dict) and is_count(value.get("bytes")) and isinstance(value.get("sha256"), str)


def _is_git(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("commit"), (str, type(None)))
        and isinstance(value.get("dirty"), (bool, type(None)))
    )


def _each(name: Callable[[object], bool], value: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda found: isinstance(found, Mapping) and all(name(n) and value(v) for n, v in found.items())


_FIELDS: dict[str, Callable[[object], bool]] = {
    "name": is_folder_name,
    "key": is_folder_name,
    "config": lambda value: isinstance(value, dict),
    "inputs": _each(_is_text, is_folder_name),
    "seed": lambda value: value is None or isinstance(value, int),
    "started": _is_text,
    **dict.fromkeys(("seconds", "core_seconds", "gpu_seconds", "peak_memory_bytes", "disk_bytes"), _is_cost),
    "device": _is_text,
    "git": _is_git,
    "metrics": _each(_is_text, is_number),
    "files": _each(is_file_name, _is_file),
}
