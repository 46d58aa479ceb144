"""`rlm plan`: every row as the stages it needs, and what they are expected to cost."""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlm.config import Runtime
from rlm.errors import ConfigError, StageError
from rlm.launch import Share, share
from rlm.live import duration, grid, size
from rlm.stages.forecast import Cost, Forecast, Machine, machine_memory
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

    @property
    def to_run(self) -> dict[str, Stage]:
        """The stages that are not finished."""
        return {key: stage for key, stage in self.stages.items() if key not in self.finished}


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a plan is expected to cost on this machine."""

    by_key: dict[str, Cost]
    share: Share
    machine: Machine
    seconds: float
    """Of the whole plan: the longest chain of stages, or all their work divided among the jobs."""
    memory_bytes: float
    """Of the largest stages that may run at the same time."""
    disk_bytes: float


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
    from rlm.stages.outside import Content

    table = load_table(options.table, options.scale, options.rows, options.datasets, options.seeds, options.settings)
    content = Content(options.data)
    return table, table.cells(content.digest, content.files)


def _check_shares(stages: list[Stage], devices: int) -> None:
    """Refuse batches that would be unequal on the devices: their losses are means over equal shares."""
    parts = {name: part for stage in stages if isinstance(stage.config, dict) for name, part in stage.config.items()}
    mistakes = [
        f"{name}.training.batch_size: {training.batch_size} examples cannot be shared equally by {devices} devices;"
        " write a multiple, or another --devices"
        for name, part in parts.items()
        if (training := getattr(part, "training", None)) is not None and training.batch_size % devices
    ]
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def make_plan(options: argparse.Namespace, hashes: bool = False) -> Plan:
    """Read the table and look into the store.

    Args:
        options: of the command line.
        hashes: also compare the SHA-256 of files that changed since they were last compared.

    Raises:
        ConfigError: the table is not right, or a batch cannot be shared among the devices.
        StageError: a default has changed since a finished stage was made.
    """
    table, cells = table_of(options)
    distinct = distinct_stages(cells)
    _check_shares([stage for stage, _ in distinct.values()], options.devices)
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


def forecast(plan: Plan, runtime: Runtime) -> Costs:
    """What the plan is expected to cost here."""
    divided = share(runtime)
    device = "cuda" if divided.gpus else "cpu"
    machine = Machine(
        device=device,
        threads=divided.threads,
        devices=runtime.devices,
        memory_bytes=min(divided.gpus) if divided.gpus else machine_memory(),
        disk_bytes=float(shutil.disk_usage(_existing(runtime.store)).free),
    )
    forecasts = Forecast(runtime.store, machine, runtime.data)
    costs = {key: forecasts.cost(stage) for key, stage in plan.to_run.items()}
    chain: dict[str, float] = {}
    for key, stage in plan.to_run.items():
        before = max((chain.get(source.key, 0.0) for source in stage.inputs.values()), default=0.0)
        chain[key] = before + costs[key].seconds
    work = sum(cost.seconds for cost in costs.values()) / divided.jobs
    largest = sorted((cost.memory_bytes for cost in costs.values()), reverse=True)
    together = 1 if divided.gpus else divided.jobs
    return Costs(
        by_key=costs,
        share=divided,
        machine=machine,
        seconds=max(work, max(chain.values(), default=0.0)),
        memory_bytes=sum(largest[:together]),
        disk_bytes=sum(cost.disk_bytes for cost in costs.values()),
    )


def refuse_what_cannot_fit(plan: Plan, costs: Costs, store: Path) -> None:
    """Compare the forecast with the machine.

    Raises:
        ConfigError: a stage needs more memory, or all together more disk, than there is.
    """
    machine = costs.machine
    where = "GPU" if machine.device == "cuda" else "machine"
    mistakes: dict[str, str] = {}
    for key, cost in costs.by_key.items():
        if cost.memory_bytes > machine.memory_bytes:
            stage = plan.stages[key]
            cell = plan.used_by[key][0]
            mistakes.setdefault(
                stage.name,
                f"{stage.name} (row {cell.row}): needs about {size(cost.memory_bytes)} of memory ({cost.source}),"
                f" this {where} has {size(machine.memory_bytes)}; lower its batch_size or lengths, or use a larger"
                f" {where}",
            )
    if not mistakes and costs.memory_bytes > machine.memory_bytes:
        mistakes[""] = (
            f"{costs.share.jobs} stages at a time need about {size(costs.memory_bytes)} of memory, this machine has"
            f" {size(machine.memory_bytes)}; write --jobs {max(1, costs.share.jobs // 2)}"
        )
    if costs.disk_bytes > machine.disk_bytes:
        mistakes["disk"] = (
            f"--store {store}: the plan writes about {size(costs.disk_bytes)}, {size(machine.disk_bytes)} are free;"
            " choose another folder or fewer rows"
        )
    if mistakes:
        raise ConfigError("\n".join(f"{mistake} (--force starts all the same)" for mistake in mistakes.values()))


def main(options: argparse.Namespace) -> int:
    """Print the plan."""
    plan = make_plan(options)
    costs = forecast(plan, runtime_of(options))
    print_plan(plan, costs, options.store)
    if not options.force:
        refuse_what_cannot_fit(plan, costs, options.store)
    return 0


def print_plan(plan: Plan, costs: Costs, store: Path) -> None:
    """Every row's stages, then every kind of stage with its cost, then the total."""
    table = plan.table
    scale = f" at scale {table.scale}" if table.scale else ""
    print(f"{table.title}{scale}: {len(table.rows)} rows, {len(table.datasets)} data sets, {len(table.seeds)} seeds\n")
    print("\n".join(grid(["row", *_roles(plan)], _row_states(plan))))
    print("\nshared: the work of a row above; 2/3: two of three are cached\n")
    header = ["stage", "distinct", "cached", "to run", "time", "memory", "disk", "source"]
    print("\n".join(grid(header, _kinds(plan, costs))))
    for problem in plan.damaged.values():
        print(f"\n{problem}; it is computed again")
    if not plan.to_run:
        print("\neverything is cached")
        return
    divided = costs.share
    print(
        f"\n{len(plan.to_run)} stages to run, about {duration(costs.seconds)} with {divided.jobs} at a time on"
        f" {divided.threads} cores each{f' and {len(divided.gpus)} GPUs' if divided.gpus else ''};"
        f" memory {size(costs.memory_bytes)} of {size(costs.machine.memory_bytes)},"
        f" disk {size(costs.disk_bytes)} of {size(costs.machine.disk_bytes)} free in {store}"
    )


def _roles(plan: Plan) -> list[str]:
    """The roles that are needed, in the order of the first cell that has them."""
    return list(dict.fromkeys(role for cell in plan.cells for role in needed_roles(cell)))


def needed_roles(cell: Cell) -> dict[str, str]:
    """Roles of the stages that the cell's results need, and their keys, each after its inputs."""
    needed = cell.needed()
    roles = {stage.key: role for role, stage in reversed(cell.stages.items())}
    return {roles[key]: key for key in needed if key in roles}


def _row_states(plan: Plan) -> list[list[str]]:
    seen: set[str] = set()
    lines = []
    for row in plan.table.rows:
        keys: dict[str, set[str]] = {}
        for cell in plan.cells:
            if cell.row == row:
                for role, key in needed_roles(cell).items():
                    keys.setdefault(role, set()).add(key)
        lines.append([row, *(_state(plan, keys.get(role, set()), seen) for role in _roles(plan))])
        seen.update(*keys.values())
    return lines


def _state(plan: Plan, keys: set[str], seen: set[str]) -> str:
    if not keys:
        return "-"
    cached = len(keys & plan.finished.keys())
    if cached == len(keys):
        return "cached"
    if cached:
        return f"{cached}/{len(keys)}"
    return "shared" if keys <= seen else "to run"


def _kinds(plan: Plan, costs: Costs) -> list[list[str]]:
    names = list(dict.fromkeys(stage.name for stage in plan.stages.values()))
    lines = []
    for name in names:
        keys = [key for key, stage in plan.stages.items() if stage.name == name]
        planned = [costs.by_key[key] for key in keys if key in costs.by_key]
        figures = ["", "", "", ""]
        if planned:
            sources = list(dict.fromkeys(cost.source for cost in planned))
            figures = [
                duration(sum(cost.seconds for cost in planned)),
                size(max(cost.memory_bytes for cost in planned)),
                size(sum(cost.disk_bytes for cost in planned)),
                sources[0] + (f" and {len(sources) - 1} more" if len(sources) > 1 else ""),
            ]
        lines.append([name, str(len(keys)), str(len(keys) - len(planned)), str(len(planned)), *figures])
    return lines


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.absolute().parent
    return folder
