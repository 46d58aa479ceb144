"""Finished runs in the store, by the names that users write (imports nothing heavy)."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rlm.errors import ConfigError, nearest
from rlm.stage_record import RECORD


def find_run(store: Path, run: str, kinds: Collection[str]) -> Path:
    """The folder of a finished stage.

    Args:
        store: folder of results.
        run: the folder's name, a path to it, or the beginning of the name.
        kinds: names of the stages that can be used.

    Raises:
        ConfigError: no finished stage, or more than one, begins so, or it is of another kind.
    """
    name = Path(run).name
    known = sorted(path.parent.name for path in (store / "stages").glob("*/stage.json") if path.parent.suffix != ".tmp")
    found = [name] if name in known else [folder for folder in known if name and folder.startswith(name)]
    if len(found) > 1:
        raise ConfigError(f"{run}: {len(found)} finished stages of {store} begin so; write one of {', '.join(found)}")
    usable = [folder for folder in known if folder.split("-")[0] in kinds]
    if not found:
        raise ConfigError(f"{run}: no such finished stage in {store}; {nearest(name, usable)}")
    if found[0] not in usable:
        wanted = " or ".join(kinds)
        raise ConfigError(f"{found[0]} is no {wanted} stage; {nearest(name, usable)}")
    return store / "stages" / found[0]


def input_folder(store: Path, record: Mapping[str, Any], role: str) -> Path:
    """What a finished stage was made from, by role.

    Raises:
        ConfigError: the store no longer has it.
    """
    if role not in record["inputs"]:
        raise ConfigError(f"{record['name']}-{record['key']}: {RECORD} names no input `{role}`; run its table again")
    folder = store / "stages" / record["inputs"][role]
    if not (folder / RECORD).is_file():
        raise ConfigError(
            f"{record['name']}-{record['key']}: its {role}, {folder.name}, is not in {store}; run its table again"
        )
    return folder


def config_part(record: Mapping[str, Any], *names: str) -> Any:
    """A part of the configuration of a finished stage.

    Raises:
        ConfigError: the record has no such part: it is damaged, or another version wrote it.
    """
    part: Any = record["config"]
    for name in names:
        if not isinstance(part, dict) or name not in part:
            of = f"{record['name']}-{record.get('key', '')}"
            raise ConfigError(f"{of}: {RECORD} has no `config.{'.'.join(names)}`; run its table again")
        part = part[name]
    return part
