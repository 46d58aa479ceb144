"""Configurations: identity, canonical JSON and hashes; what identifies a result, kept apart from how it is run."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """How and where a table runs. Nothing here changes a result; rows may not touch it."""

    store: Path = Path("runs")
    """Folder of finished stages, MLflow's database and reports."""
    data: Path | None = None
    """Folder that `kind: files` sources are relative to."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    """Processes of one stage that trains (DDP) or writes a datastore; GPUs that search it."""
    jobs: int | None = None
    """Stages at a time; None takes one per GPU, or one per two cores."""
    threads: int | None = None
    """Cores of one stage; None shares the machine's cores among the jobs."""
    workers: int = 0
    """Data-loading processes of one training stage."""


def identity(config: Any) -> Any:
    """What identifies a configuration: its fields that differ from their defaults, and every `kind`.

    Raises:
        TypeError: a value that has no stable serialisation.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {}
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            if field.name == "kind" or value != default or isinstance(value, bool) != isinstance(default, bool):
                fields[field.name] = identity(value)
        return fields
    if isinstance(config, dict):
        return {str(name): identity(value) for name, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [identity(value) for value in config]
    if config is None or isinstance(config, (bool, int, float, str)):
        return config
    raise TypeError(f"{config!r} of {type(config).__name__} has no stable serialisation")


def to_plain(config: Any) -> Any:
    """A configuration in full, defaults included, as JSON would read it back."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {str(name): to_plain(value) for name, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_plain(value) for value in config]
    return config


def canonical(value: Any) -> str:
    """JSON with sorted keys and no white space: equal values give equal strings."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]
