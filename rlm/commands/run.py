"""`rlm run`: computes what is missing, shows how it goes, and prints the table."""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlm.commands.plan import Plan, forecast, make_plan, needed_roles, print_plan, refuse_what_cannot_fit, runtime_of
from rlm.errors import StageError
from rlm.launch import Event, LocalPool, Outcome, log_file, run_stages
from rlm.live import LiveView, PlainView, View
from rlm.secrets import without_secrets
from rlm.stage_record import read_record
from rlm.stages.cost import git_state
from rlm.stages.models import MODELS
from rlm.stages.stage import Stage
from rlm.stages.store import find_finished, prepare_store, stage_folder
from rlm.table import Cell


def main(options: argparse.Namespace) -> int:
    """Run the table.

    Returns:
        0, 1 if a stage failed or what was found cannot be shown, 130 if interrupted.
    """
    if options.dry_run:
        plan = make_plan(options)
        print_plan(plan, forecast(plan, runtime_of(options)), options.store)
        return 0
    plan = make_plan(options, hashes=True)
    if plan.to_run:  # A finished table is printed from a store that can only be read, too.
        prepare_store(options.store)
    outcome = Outcome()
    tracker = _Tracking(plan, options.store)
    try:
        tracker.deliver_finished()
        if plan.to_run:
            outcome = _compute(plan, options, tracker)
    except KeyboardInterrupt:
        print(f"\ninterrupted; {_resume(plan, options.store)}", file=sys.stderr)
        tracker.close(5.0)
        return 130
    tracker.close(60.0)
    shown = _print_table(plan, options)
    return _print_failures(plan, outcome, options.store) or int(not shown)


def _compute(plan: Plan, options: argparse.Namespace, tracker: "_Tracking") -> Outcome:
    runtime = runtime_of(options)
    costs = forecast(plan, runtime)
    if not options.force:
        refuse_what_cannot_fit(plan, costs, options.store)
    for problem in plan.damaged.values():
        print(f"{problem}; it is computed again", file=sys.stderr)
    seconds = {key: cost.seconds for key, cost in costs.by_key.items()}
    launcher = LocalPool(options.store, runtime)
    try:
        with _Unstoppable(_view(plan)) as view:

            def watch(event: Event) -> None:
                metrics = {}
                if event.kind == "done":
                    with contextlib.suppress(StageError, OSError):  # The table, at the end, says what is wrong with it.
                        folder = stage_folder(options.store, plan.stages[event.key])
                        metrics = read_record(folder, needs=("metrics",))["metrics"]
                view(event, metrics)
                tracker.watch(event)

            return run_stages(
                plan.stages, set(plan.finished), launcher, watch, lambda stage: seconds.get(stage.key, 1.0)
            )
    finally:
        launcher.close()


def _view(plan: Plan) -> LiveView | PlainView:
    labels = {key: _label(plan, key) for key in plan.stages}
    order = [*MODELS[plan.table.model].live, *plan.table.columns]
    if not sys.stdout.isatty():
        return PlainView(plan.stages, labels, set(plan.finished), order)
    rows: dict[str, dict[str, list[str]]] = {}
    for cell in plan.cells:
        for role, key in needed_roles(cell).items():
            keys = rows.setdefault(cell.row, {}).setdefault(role, [])
            if key not in keys:
                keys.append(key)
    results = {cell.stages[role].key for cell in plan.cells for role in cell.leaves}
    return LiveView(plan.stages, labels, set(plan.finished), rows, results, order)


class _Unstoppable:
    """A view that may fail, as on a full disk; the work goes on without it."""

    def __init__(self, view: LiveView | PlainView) -> None:
        self._view = view
        self._fails = False

    def __enter__(self) -> View:
        self._try(self._view.__enter__)
        return self

    def __exit__(self, *error: Any) -> None:
        self._try(lambda: self._view.__exit__(*error))

    def __call__(self, event: Event, metrics: Mapping[str, float]) -> None:
        self._try(lambda: self._view(event, metrics))

    def _try(self, show: Callable[[], Any]) -> None:
        if self._fails:
            return
        try:
            show()
        except OSError as error:
            self._fails = True
            print(f"how the run goes cannot be shown any longer: {error.strerror or error}", file=sys.stderr)


def _label(plan: Plan, key: str) -> str:
    """The rows, data set and seed that a stage is for, in a few words."""
    cells = plan.used_by[key]
    rows = list(dict.fromkeys(cell.row for cell in cells))
    words = [rows[0] if len(rows) == 1 else f"{len(rows)} rows"]
    if len(plan.table.datasets) > 1 and len({cell.dataset for cell in cells}) == 1:
        words.append(cells[0].dataset)
    if len(plan.table.seeds) > 1 and len({cell.seed for cell in cells}) == 1:
        words.append(f"seed {cells[0].seed}")
    return ", ".join(words)


class _Tracking:
    """Tells MLflow of every stage; what is not delivered now is delivered by a later run."""

    def __init__(self, plan: Plan, store: Path) -> None:
        from rlm.tracking import Tracker

        self._plan, self._store = plan, store
        self._tracker = Tracker(store, plan.table.name)

    def deliver_finished(self) -> None:
        for key in self._plan.finished:
            self._deliver(key)

    def watch(self, event: Event) -> None:
        if event.kind in ("started", "done", "failed", "lost"):
            self._deliver(event.key, failed=event.kind in ("failed", "lost"))

    def close(self, seconds: float) -> None:
        self._tracker.close(seconds)

    def _deliver(self, key: str, failed: bool = False) -> None:
        from rlm.tracking import run_tags

        cells = self._plan.used_by[key]
        tags = run_tags(
            self._plan.table.name,
            list(dict.fromkeys(cell.row for cell in cells)),
            list(dict.fromkeys(cell.dataset for cell in cells)),
            self._plan.stages[key].seed if self._plan.stages[key].seed is not None else _only_seed(cells),
            git_state()["commit"] or "",
        )
        if self._plan.table.scale:
            tags["scale"] = self._plan.table.scale
        try:
            folder = stage_folder(self._store, self._plan.stages[key])
            self._tracker.deliver(folder, tags, failed, _files_read(self._plan, key))
        except Exception as error:  # A view of the results must not stop them.
            print(f"MLflow is not told of {self._plan.stages[key].folder}: {error}", file=sys.stderr)


def _files_read(plan: Plan, key: str) -> list[str]:
    """Files of a stage that columns read."""
    model, rows = MODELS[plan.table.model], plan.table.rows
    return sorted(
        {
            column.file
            for cell in plan.used_by[key]
            for column in model.columns(rows[cell.row])
            if column.role in cell.stages and cell.stages[column.role].key == key
        }
    )


def _only_seed(cells: list[Cell]) -> int | None:
    """The seed of stages that draw nothing themselves but stand on one that did."""
    seeds = {cell.seed for cell in cells}
    return seeds.pop() if len(seeds) == 1 else None


def _print_table(plan: Plan, options: argparse.Namespace) -> bool:
    """Show what was found; whether all of it could be shown."""
    from rlm import report

    def table() -> None:
        print()
        print(report.render(plan.table, plan.cells, options.store, "markdown"), flush=True)

    def pages() -> None:
        page = report.write_reports(plan.table, plan.cells, options.store)
        print(f"\nplots: {page}\nMLflow: rlm ui --store {shlex.quote(str(options.store))}", flush=True)

    return all([_tried("table", table), _tried("report", pages)])


def _tried(what: str, show: Callable[[], None]) -> bool:
    """Whether something was shown; if not, why is told. The account of the stages comes after it, whatever happens."""
    try:
        show()
    except Exception as error:
        text = str(error) if isinstance(error, (ValueError, OSError, StageError)) else repr(error)
        for line in text.split("\n"):
            print(f"rlm run: {what}: {line}", file=sys.stderr)
        return False
    return True


def _print_failures(plan: Plan, outcome: Outcome, store: Path) -> int:
    if not outcome.failed:
        return 0
    print(f"\n{len(outcome.failed)} stages failed, {len(outcome.skipped)} wait for them:", file=sys.stderr)
    for key, message in outcome.failed.items():
        stage = plan.stages[key]
        print(f"  {stage.folder} ({_label(plan, key)}): {message}\n    log: {log_file(stage, store)}", file=sys.stderr)
    print(_resume(plan, store), file=sys.stderr)
    return 1


def _resume(plan: Plan, store: Path) -> str:
    finished = sum(_is_finished(stage, store) for stage in plan.stages.values())
    command = shlex.join(["rlm", *map(without_secrets, sys.argv[1:])])
    return f"{finished} of {len(plan.stages)} stages are finished and kept; to go on: {command}"


def _is_finished(stage: Stage, store: Path) -> bool:
    try:
        return find_finished(stage, store) is not None
    except (StageError, OSError):
        return False
