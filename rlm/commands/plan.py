"""`rlm plan`: every row as the stages it needs, and what they are expected to cost."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlm.config import Runtime
from rlm.errors import StageError
from rlm.stages.stage import Stage
from rlm.stages.store import Damaged, find_finished
from rlm.table import AblationTable, Cell, distinct_stages, load_table


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A table's distinct stages and which of them are finished."""

    table: AblationTable
    cells: list[Cell]
    stages: dict[str, Stage]
    """By key, each after its inputs."""
    used_by: dict[str, list[Cell]]
    finished: dict[str, dict[str, Any]]
    """Records of finished stages by key."""
    damaged: dict[str, str]
    """What is wrong, by key, of finished stages that will be computed again."""


def runtime_of(options: argparse.Namespace) -> Runtime:
    """How and where, from the command line."""
    return Runtime(
        store=options.store,
        data=options.data,
        device=options.device,
        devices=options.devices,
        jobs=options.jobs,
        threads=options.threads,
        workers=options.workers,
    )


def table_of(options: argparse.Namespace) -> tuple[AblationTable, list[Cell]]:
    """The table and its cells, from the command line."""
    from rlm.data.sources import content_digest

    table = load_table(
        options.table, options.scale, options.rows, options.datasets, options.seeds, options.settings
    )
    return table, table.cells(lambda source: content_digest(source, options.data))


def make_plan(options: argparse.Namespace, hashes: bool = False) -> Plan:
    """Read the table and look into the store.

    Args:
        options: of the command line.
        hashes: also compare the SHA-256 of files that changed since they were last compared.

    Raises:
        ConfigError: the table is not right.
        StageError: a default has changed since a finished stage was made.
    """
    table, cells = table_of(options)
    distinct = distinct_stages(cells)
    finished: dict[str, dict[str, Any]] = {}
    damaged: dict[str, str] = {}
    stale: list[str] = []
    for key, (stage, _) in distinct.items():
        try:
            record = find_finished(stage, options.store, hashes)
        except Damaged as error:
            damaged[key] = str(error)
        except StageError as error:
            stale.append(str(error))
        else:
            if record is not None:
                finished[key] = record
    if stale:
        raise StageError("\n".join(stale))
    return Plan(
        table=table,
        cells=cells,
        stages={key: stage for key, (stage, _) in distinct.items()},
        used_by={key: users for key, (_, users) in distinct.items()},
        finished=finished,
        damaged=damaged,
    )


def main(options: argparse.Namespace) -> int:
    """Print the plan."""
    plan = make_plan(options)
    print_plan(plan, options.store)
    return 0


def print_plan(plan: Plan, store: Path) -> None:
    """Every row's stages."""
    for key, stage in plan.stages.items():
        state = "cached" if key in plan.finished else "to run"
        print(f"{state:8} {stage.folder}  {len(plan.used_by[key])} cells")
