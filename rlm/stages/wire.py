"""A stage and its inputs as JSON, for processes that compute it elsewhere (imports nothing heavy)."""

import dataclasses
from importlib import import_module
from typing import Any

from rlm.build import build
from rlm.config import to_plain
from rlm.errors import StageError
from rlm.stages.stage import Stage
from rlm.yaml_file import Document


def pack(stage: Stage) -> dict[str, Any]:
    """The stage and everything it stands on, each once, as plain values."""
    stages: dict[str, Any] = {}

    def add(one: Stage) -> None:
        if one.key in stages:
            return
        for source in one.inputs.values():
            add(source)
        stages[one.key] = {
            "name": one.name,
            "config": _pack_config(one.config),
            "inputs": {role: source.key for role, source in one.inputs.items()},
            "seed": one.seed,
            "content": one.content,
            "files": dict(one.files),
        }

    add(stage)
    return {"key": stage.key, "stages": stages}


def unpack(packed: dict[str, Any]) -> Stage:
    """The stage that `pack` was given.

    Raises:
        StageError: its key has become another, as when the code changed between the two processes.
    """
    stages: dict[str, Stage] = {}
    for key, record in packed["stages"].items():
        stage = Stage(
            name=record["name"],
            config=_unpack_config(record["config"]),
            inputs={role: stages[source] for role, source in record["inputs"].items()},
            seed=record["seed"],
            content=record["content"],
            files=record["files"],
        )
        if stage.key != key:
            raise StageError(f"{record['name']}-{key}: its key is {stage.key} here; rlm changed since; start again")
        stages[key] = stage
    return stages[packed["key"]]


def _pack_config(config: Any) -> Any:
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        kind = type(config)
        return {"type": f"{kind.__module__}:{kind.__qualname__}", "value": to_plain(config)}
    if isinstance(config, dict):
        return {"entries": {name: _pack_config(value) for name, value in config.items()}}
    return {"value": to_plain(config)}


def _unpack_config(packed: Any) -> Any:
    if "entries" in packed:
        return {name: _unpack_config(value) for name, value in packed["entries"].items()}
    if "type" not in packed:
        return packed["value"]
    module, _, name = packed["type"].partition(":")
    # Only our own dataclasses are ever made from a message.
    if module.split(".")[0] != "rlm":
        raise StageError(f"{packed['type']} is no configuration of rlm")
    kind = getattr(import_module(module), name)
    if not dataclasses.is_dataclass(kind):
        raise StageError(f"{packed['type']} is no configuration of rlm")
    return build(kind, Document(packed["value"]))  # type: ignore[arg-type]
