"""A stage: a pure function from its configuration and the folders of its inputs to a folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from rlm.config import Runtime, digest, identity

# name -> version; a version changes when the same configuration would give another result.
# `rlm.stages.<name>.run` computes the stage; planning never imports it.
VERSIONS = {
    "corpus": 1,
    "questions": 1,
    "salient_spans": 1,
    "warm_start": 1,
    "ict": 1,
    "pretrain": 1,
    "index": 1,
    "zero_shot": 1,
    "finetune": 1,
    "evaluate": 1,
    "documents": 2,
    "chunk_index": 1,
    "neighbours": 1,
    "retro_train": 2,
    "datastore": 1,
    "datastore_index": 1,
    "knn_search": 1,
    "knn_evaluate": 1,
    "perplexity": 2,
    "leakage": 1,
    "question_neighbours": 1,
    "retro_finetune": 1,
    "retro_answer": 1,
    "parallel": 1,
    "mt_train": 1,
    "mt_datastore": 1,
    "mt_translate": 1,
    "mt_score": 1,
}


class Context(Protocol):
    """What a running stage may use of its surroundings."""

    seed: int
    runtime: Runtime
    threads: int

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics over steps (kept on disk, delivered to MLflow)."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Show how far the stage is; call as often as convenient."""

    def all_read(self) -> None:
        """Nothing is read from outside the store from here on: said by stages that go on for long. What was read is
        compared with what was planned now, for all others at their end.

        Raises:
            ChangedFiles: it is not; nothing may be kept of it.
        """


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One piece of work; equal keys mean equal results."""

    name: str
    config: Any
    """A configuration dataclass, or a dict of several."""
    inputs: Mapping[str, "Stage"] = field(default_factory=dict)
    seed: int | None = None
    """None where the stage draws no random numbers."""
    content: str = ""
    """Digest of the files the stage reads from outside the store."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of those files by path, to compare with what is read; not part of the key."""

    @cached_property
    def key(self) -> str:
        return digest(
            {
                "name": self.name,
                "version": VERSIONS[self.name],
                "config": identity(self.config),
                "inputs": {role: stage.key for role, stage in self.inputs.items()},
                "seed": self.seed,
                "content": self.content,
            }
        )

    @property
    def folder(self) -> str:
        """Name of the stage's folder in the store."""
        return f"{self.name}-{self.key}"

    def load(self) -> Callable[[Any, dict[str, Path], Path, Context], dict[str, float]]:
        """The function that computes the stage: `run(config, inputs, folder, context) -> summary metrics`."""
        return import_module(f"rlm.stages.{self.name}").run
