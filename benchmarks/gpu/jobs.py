"""The list of jobs: rows of tables, and measurements, in the order of their worth.

A job is cut into tasks that can be finished one by one: a cell of a table (a row on a data set with a seed), or one
measurement. A task is done when a store holds its result, wherever that was computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlm.build import build
from rlm.data.config import HubSource, PretrainedTokenizer
from rlm.data.content import content_digest
from rlm.data.pretrained import PACKAGED, locate
from rlm.data.sources import source_files
from rlm.errors import ConfigError, StageError
from rlm.stages.stage import Stage
from rlm.stages.store import find_finished
from rlm.table import AblationTable, Cell, load_table
from rlm.yaml_file import Document, read_yaml

ROOT = Path(__file__).resolve().parents[2]
JOBS = Path(__file__).with_name("jobs.yaml")
ROUNDED = "bfloat16"
"""As the `revision` of a checkpoint: its weights are packed in bfloat16. It is part of the stages' keys, so that nobody
takes their results for those of the weights as published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is worth a task or several."""

    name: str
    table: str | None = None
    """Table file, relative to the checkout."""
    scale: str = "mini"
    rows: tuple[str, ...] = ()
    """In this order; none are all of the table."""
    datasets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    settings: tuple[str, ...] = ()
    """As `--set` of `rlm run` takes them."""
    measure: str | None = None
    """A function of `benchmarks.gpu.measures`."""
    of: str | None = None
    """Role of the table's stage whose inputs are measured, where there is a table: they are computed, it is not."""
    options: dict[str, int] = field(default_factory=dict)
    """Of the measurement."""
    minutes: float
    """That a task is expected to take."""

    @property
    def command(self) -> tuple[str, ...]:
        """`rlm table` for what the job computes."""
        words = ["rlm", "table", str(self.table), "--scale", self.scale]
        words += ["--rows", ",".join(self.rows)] if self.rows else []
        words += ["--datasets", ",".join(self.datasets)] if self.datasets else []
        words += ["--seeds", ",".join(map(str, self.seeds))] if self.seeds else []
        return tuple(words + [word for setting in self.settings for word in ("--set", setting)])

    def load(self) -> AblationTable:
        """The table, cut to the job."""
        assert self.table is not None
        path = ROOT / self.table
        return load_table(path, self.scale, self.rows, self.datasets, self.seeds, self.settings)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is finished, or not."""

    job: Job
    cell: Cell | None = None

    @property
    def name(self) -> str:
        """In words."""
        if self.cell is None or self.job.measure:
            return self.job.name
        return f"{self.job.name}: {self.cell.row}, {self.cell.dataset}, seed {self.cell.seed}"

    @property
    def leaves(self) -> list[Stage]:
        """The stages whose results are wanted, or those that are measured."""
        if self.cell is None:
            return []
        if self.job.of:
            return list(self.cell.stages[self.job.of].inputs.values())
        return [self.cell.stages[role] for role in self.cell.leaves]

    @property
    def stages(self) -> dict[str, Stage]:
        """All that is to be computed, by key, each after its inputs."""
        found: dict[str, Stage] = {}

        def add(stage: Stage) -> None:
            if stage.key not in found:
                for source in stage.inputs.values():
                    add(source)
                found[stage.key] = stage

        for stage in self.leaves:
            add(stage)
        return found

    def to_compute(self, store: Path) -> tuple[dict[str, Stage], set[str]]:
        """The stages that unfinished ones need and the store lacks, by key, each after its inputs; and the keys of
        finished ones where they begin. Nothing is computed for a result that is there: what it was made from need not
        be."""
        missing: dict[str, Stage] = {}
        found: set[str] = set()

        def add(stage: Stage) -> None:
            if stage.key in missing or stage.key in found:
                return
            if finished(stage, store):
                found.add(stage.key)
                return
            for source in stage.inputs.values():
                add(source)
            missing[stage.key] = stage

        for stage in self.leaves:
            add(stage)
        return missing, found

    def done(self, store: Path) -> bool:
        """Whether the store has the result."""
        if self.job.measure:
            return (store / "measures" / self.job.name).is_dir()
        return all(finished(stage, store) for stage in self.leaves)


def finished(stage: Stage, store: Path) -> bool:
    """Whether a stage is there, and whole by its files' sizes."""
    try:
        return find_finished(stage, store) is not None
    except StageError:
        return False


def read_jobs(path: Path) -> list[Job]:
    """The jobs of a file `jobs: [...]`.

    Raises:
        ConfigError: all mistakes, one a line.
    """
    listed = read_yaml(path).value.get("jobs")
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"{path}: jobs: write a list of jobs, each `- name: ...`")
    errors: list[str] = []
    jobs = [build(Job, Document(each, {(): f"{path}: job {number}"}), errors) for number, each in enumerate(listed, 1)]
    if errors:
        raise ConfigError("\n".join(errors))
    for job in jobs:
        if (job.table is None) == (job.measure is None) and job.of is None:
            errors.append(f"{path}: {job.name}: write either `table` or `measure`, or both and `of`")
        if sum(job.name == other.name for other in jobs) > 1:
            errors.append(f"{path}: {job.name}: two jobs of this name; give each its own")
    if errors:
        raise ConfigError("\n".join(dict.fromkeys(errors)))
    return jobs


def tasks(job: Job, data: Path | None) -> Iterator[Task]:
    """Of a job, data set by data set, seed by seed, row by row."""
    if job.table is None:
        yield Task(job=job)
        return
    table = job.load()
    cells = table.cells(lambda source: content_digest(source, data))
    rows, datasets = job.rows or tuple(table.rows), table.datasets
    cells.sort(key=lambda cell: (datasets.index(cell.dataset), table.seeds.index(cell.seed), rows.index(cell.row)))
    for cell in cells[:1] if job.measure else cells:
        yield Task(job=job, cell=cell)


@dataclass(frozen=True, slots=True)
class Read:
    """What a job reads from outside the store."""

    files: list[Path]
    checkpoints: dict[str, bool]
    """By hub name: whether weights are read, not the tokenizer alone."""


def reads(job: Job, data: Path) -> Read:
    """Files below the data folder and packaged checkpoints that a job's stages read.

    Raises:
        ConfigError: a checkpoint that no package brings along, or weights that are not asked for in bfloat16.
    """
    asked: list[Any] = []
    if job.table is not None:
        job.load().cells(lambda source: asked.append(source) or content_digest(source, data))
    files: dict[Path, None] = {}
    checkpoints: dict[str, bool] = {}
    for source in asked:
        named = getattr(source, "files", None) or getattr(source, "train_files", ())
        files.update(dict.fromkeys(source_files(named, data) if named else ()))
        if isinstance(source, HubSource):
            raise ConfigError(f"{job.name}: {source.dataset} is read from a hub; fetch it into files first")
        if (name := getattr(source, "name", None)) is None:
            continue
        if name not in PACKAGED or locate(name) == name:
            raise ConfigError(f"{job.name}: {name} is in no installed package, so it cannot be packed")
        weights = not isinstance(source, PretrainedTokenizer)
        if weights and source.revision != ROUNDED:
            raise ConfigError(f"{job.name}: {name}: write `revision: {ROUNDED}`, as its weights are packed")
        checkpoints[name] = checkpoints.get(name, False) or weights
    return Read(list(files), checkpoints)
