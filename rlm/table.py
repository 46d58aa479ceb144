"""Ablation tables: a base configuration and rows that each change a few fields (imports nothing heavy)."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal

from rlm.build import build, build_plain
from rlm.errors import ConfigError, nearest
from rlm.limits import Line, Name, Names, SeedRange, Seeds, repeated, shown
from rlm.overlay import merge, nest, parse_settings
from rlm.stages.columns import Column
from rlm.stages.models import MODELS, Model
from rlm.stages.stage import Stage
from rlm.yaml_file import Document, read_yaml

Relation = Literal[">", "<"]
Paths = Name | tuple[Name, ...]
"""Relative to the table file's folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trend:
    """An inequality that the rows of a column are expected to satisfy."""

    column: str
    order: tuple[str, ...]
    relation: Relation = ">"
    """How each row is expected to stand to the next."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row on one data set with one seed."""

    row: str
    dataset: str
    seed: int
    stages: dict[str, Stage]
    """By role."""
    leaves: tuple[str, ...]
    """Roles whose results the table reads."""

    def needed(self) -> dict[str, Stage]:
        """The stages that the leaves need, by key, each after its inputs."""
        ordered: dict[str, Stage] = {}

        def add(stage: Stage) -> None:
            if stage.key not in ordered:
                for input_stage in stage.inputs.values():
                    add(input_stage)
                ordered[stage.key] = stage

        for role in self.leaves:
            add(self.stages[role])
        return ordered


@dataclass(frozen=True, kw_only=True)
class AblationTable:
    """A table file, overlaid with a scale and options, and checked."""

    name: str
    title: str
    paper: str
    model: str
    scale: str
    datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    columns: tuple[str, ...]
    baseline: str
    rows: dict[str, Any]
    """The experiment of each row by name."""
    trends: list[Trend] = field(default_factory=list)
    reported: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """The paper's own numbers: row, data set, column."""
    reported_source: str = ""
    chosen: tuple[str, ...] = ()
    """Data sets asked for in place of the file's."""

    @property
    def report(self) -> str:
        """Name of its reports' files: other data sets do not overwrite those of the table."""
        return "-".join([self.scale or "table", *self.chosen]).replace("/", "-")

    @property
    def columns_read(self) -> list[str]:
        """Columns that are shown or that trends are about."""
        return list(dict.fromkeys([*self.columns, *(trend.column for trend in self.trends)]))

    def column(self, name: str) -> Column:
        """What a column means, which all rows measure."""
        of_rows = [
            column
            for experiment in self.rows.values()
            for column in MODELS[self.model].columns(experiment)
            if column.name == name
        ]
        assert all(column == of_rows[0] for column in of_rows), f"rows give {name} different meanings"
        return of_rows[0]

    def measured_on(self, dataset: str) -> str:
        """What the rows are measured on, in words; what all say is said once."""
        describe = MODELS[self.model].measured_on
        parts = [part for experiment in self.rows.values() for part in describe(experiment, dataset).split("; ")]
        return "; ".join(dict.fromkeys(parts))

    def cells(
        self, content: Callable[[Any], str], files: Callable[[Any], Mapping[str, str]] = lambda config: {}
    ) -> list[Cell]:
        """One cell for every row, data set and seed.

        Args:
            content: digest of the files that a source reads from outside the store.
            files: of a stage's configuration, SHA-256 by path of the files that the stage reads there.
        """
        watched: dict[str, Stage] = {}

        def watch(stage: Stage) -> Stage:
            if stage.key not in watched:
                inputs = {role: watch(source) for role, source in stage.inputs.items()}
                watched[stage.key] = replace(stage, inputs=inputs, files=files(stage.config))
            return watched[stage.key]

        read = {self.column(name).role for name in self.columns_read}
        cells = []
        for row, experiment in self.rows.items():
            for dataset in self.datasets:
                for seed in self.seeds:
                    stages = MODELS[self.model].stages(experiment, dataset, seed, content)
                    stages = {role: watch(stage) for role, stage in stages.items()}
                    leaves = tuple(role for role in stages if role in read)
                    cells.append(Cell(row=row, dataset=dataset, seed=seed, stages=stages, leaves=leaves))
        return cells


def distinct_stages(cells: Iterable[Cell]) -> dict[str, tuple[Stage, list[Cell]]]:
    """Each stage that the cells' results need, once, after its inputs, with the cells that share it."""
    distinct: dict[str, tuple[Stage, list[Cell]]] = {}
    for cell in cells:
        for key, stage in cell.needed().items():
            distinct.setdefault(key, (stage, []))[1].append(cell)
    return distinct


@dataclass(frozen=True, kw_only=True, slots=True)
class _TableFile:
    """The fields of a table file but for rows, trends and reported numbers."""

    base: Paths
    """Several are laid over one another, in this order."""
    title: Line = ""
    paper: Line = ""
    model: Name = "realm"
    scales: Paths = "scale"
    """Folders, whose files of a scale are laid over one another in this order; not all need have one."""
    datasets: Names = ()
    seeds: Seeds = (0,)
    columns: Names = ()
    baseline: Name | None = None


_OTHER_FIELDS = ("rows", "trends", "reported")


def load_table(
    path: Path,
    scale: str | None = None,
    rows: Sequence[str] = (),
    datasets: Sequence[str] = (),
    seeds: Sequence[int] = (),
    settings: Sequence[str] = (),
) -> AblationTable:
    """Read a table file: base, then the scale's overlay, then each row's changes, then `settings`.

    Args:
        path: the table file.
        scale: name of a file in the table's folder of scales; None takes `tiny` where there is one.
        rows: names of the rows to keep; none keeps all.
        datasets: in place of the table's or the scale's.
        seeds: in place of the table's or the scale's.
        settings: `name=value`, laid over every row.

    Raises:
        ConfigError: all mistakes of the files and options, one a line.
    """
    errors = _option_mistakes(rows, datasets, seeds)
    document = read_yaml(path)
    known = [*(entry.name for entry in fields(_TableFile)), *_OTHER_FIELDS]
    for name in document.value:
        if name not in known:
            errors.append(f"{document.place((name,))}: {name}: no such field of a table; {nearest(name, known)}")
    plain = {name: value for name, value in document.value.items() if name in known and name not in _OTHER_FIELDS}
    scales = build_plain(Paths, document.part("scales"), errors, "scales") if "scales" in plain else "scale"
    if errors:
        raise ConfigError("\n".join(errors))
    scale, overlay = _scale([path.parent / name for name in _each(scales)], scale)
    for name in overlay.value:
        if name not in ("datasets", "seeds", "config"):
            errors.append(
                f"{overlay.place((name,))}: {name}: no such field of a scale;"
                f" {nearest(name, ('datasets', 'seeds', 'config'))}"
            )
    where = dict(document.where)
    for name in ("datasets", "seeds"):
        if name in overlay.value:
            plain[name] = overlay.value[name]
            where.update({place: line for place, line in overlay.where.items() if place[:1] == (name,)})
    file = build(_TableFile, Document(plain, where), errors)
    if errors:
        raise ConfigError("\n".join(errors))
    if file.model not in MODELS:
        raise ConfigError(f"{document.place(('model',))}: model: found `{file.model}`; {nearest(file.model, MODELS)}")
    base_paths = [path.parent / name for name in _each(file.base)]
    absent = [base_path for base_path in base_paths if not os.path.isfile(base_path)]
    if absent or not base_paths:
        raise ConfigError(
            f"{document.place(('base',))}: base: no file {', '.join(map(str, absent))};"
            " write its path relative to the table file's folder"
        )
    if any(path.samefile(base_path) for base_path in base_paths):
        raise ConfigError(f"{document.place(('base',))}: base: is this file itself; name the one that rows change")
    base = reduce(merge, [*map(read_yaml, base_paths), _mapping(overlay, "config", errors)])
    model = MODELS[file.model]
    experiments = _rows(document, base, model, parse_settings(settings), errors)
    of_rows = [column for experiment in experiments.values() for column in model.columns(experiment)]
    measured, always = ([column.name for column in of_rows if column.always >= least] for least in (False, True))
    table = AblationTable(
        name=path.stem,
        title=file.title or path.stem,
        paper=file.paper,
        scale=scale,
        datasets=tuple(datasets) or file.datasets,
        seeds=tuple(seeds) or file.seeds,
        columns=tuple(dict.fromkeys([*(file.columns or measured[:1]), *always])),
        baseline=file.baseline or next(iter(_mapping(document, "rows", errors).value), ""),
        rows=experiments,
        trends=_trends(document, errors),
        reported=_reported(document, errors),
        reported_source=_reported_source(document, errors),
        model=file.model,
        chosen=tuple(datasets),
    )
    _check_names(table, document, overlay, rows, bool(datasets), errors)
    if errors:
        raise ConfigError("\n".join(dict.fromkeys(errors)))
    return _restrict(table, rows)


def _option_mistakes(rows: Sequence[str], datasets: Sequence[str], seeds: Sequence[int]) -> list[str]:
    found = {"--rows": repeated(rows), "--datasets": repeated(datasets), "--seeds": repeated(seeds)}
    for seed in seeds:
        found["--seeds"] = SeedRange().mistake(seed) or found["--seeds"]
    return [f"{option}: {mistake}" for option, mistake in found.items() if mistake]


def _mapping(document: Document, name: str, errors: list[str]) -> Document:
    part = document.part(name)
    if isinstance(part.value, dict):
        return part
    errors.append(f"{part.place(())}: {name}: found {type(part.value).__name__}; write a mapping")
    return Document({}, {(): part.place(())})


def _each(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _scale(folders: list[Path], scale: str | None) -> tuple[str, Document]:
    known = sorted({file.stem for folder in folders for file in folder.glob("*.yaml") if os.path.isfile(file)})
    if scale is None:
        scale = "tiny" if "tiny" in known else ""
    if not scale:
        return "", Document({})
    if scale not in known:
        file = folders[0] / f"{scale}.yaml" if folders else ""
        raise ConfigError(f"--scale {shown(scale)}: no file {shown(file, 200)}; {nearest(scale, known)}")
    files = [folder / f"{scale}.yaml" for folder in folders]
    return scale, reduce(merge, [read_yaml(file) for file in files if os.path.isfile(file)])


def _rows(document: Document, base: Document, model: Model, settings: Document, errors: list[str]) -> dict[str, Any]:
    rows = _mapping(document, "rows", errors)
    if not rows.value:
        errors.append(f"{document.place(('rows',))}: rows: none given; write `rows:` and at least one `NAME: {{}}`")
    experiments = {}
    for layer, called in ((base, "the base"), (settings, "--set")):
        if "runtime" in layer.value:
            errors.append(
                f"{layer.place(('runtime',))}: runtime: {called} may not set it;"
                " how a table is run is told by the options of `rlm run`"
            )
    for name in rows.value:
        changes = _mapping(rows, name, errors)
        try:
            row = nest(changes)
        except ConfigError as error:
            errors.append(str(error))
            continue
        if "runtime" in row.value:
            errors.append(
                f"{row.place(('runtime',))}: row `{name}`: `runtime` cannot differ between rows, since it does not"
                " change a result; use the options of `rlm run`"
            )
            continue
        if "runtime" in base.value or "runtime" in settings.value:
            continue
        before = len(errors)
        merged = merge(merge(base, row), settings)
        experiment = build(model.experiment, merged, errors)
        if len(errors) > before:
            continue
        for mistake in model.check(experiment):
            field_name = mistake.partition(":")[0]
            errors.append(f"{merged.place(tuple(field_name.split('.')))}: {mistake}")
        experiments[name] = experiment
    return experiments


def _trends(document: Document, errors: list[str]) -> list[Trend]:
    trends = []
    listed = document.value.get("trends")
    listed = [] if listed is None else listed
    for i, entry in enumerate(listed if isinstance(listed, list) else [listed]):
        place = document.place(("trends", str(i)))
        if not isinstance(entry, dict) or not all(isinstance(order, str) for order in entry.values()):
            errors.append(
                f"{place}: trends: found `{shown(entry)}`; write `- COLUMN: ROW > ROW` or `- COLUMN: ROW < ROW`"
            )
            continue
        for column, order in entry.items():
            relation: Relation = "<" if " < " in order else ">"
            if " < " in order and " > " in order:
                errors.append(f"{place}: trends: `{shown(order)}` has both > and <; write a trend for each direction")
                continue
            names = tuple(name.strip() for name in order.split(f" {relation} "))
            if len(names) < 2:
                errors.append(
                    f"{place}: trends: `{shown(order)}` has one row; write `ROW > ROW`, with spaces around >, or"
                    " `ROW < ROW`"
                )
            if twice := repeated(names):
                errors.append(f"{place}: trends: {twice}")
            trends.append(Trend(column=column, order=names, relation=relation))
    return trends


def _reported(document: Document, errors: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    part = _mapping(document, "reported", errors)
    rows = {name: value for name, value in part.value.items() if name != "source"}
    return build_plain(dict[str, dict[str, dict[str, float]]], Document(rows, part.where), errors, "reported")


def _reported_source(document: Document, errors: list[str]) -> str:
    part = _mapping(document, "reported", errors)
    if "source" not in part.value:
        return ""
    found = build_plain(Line, part.part("source"), errors, "reported.source")
    return found if isinstance(found, str) else ""


def _check_names(
    table: AblationTable,
    document: Document,
    overlay: Document,
    rows: Sequence[str],
    datasets_given: bool,
    errors: list[str],
) -> None:
    def unknown(place: str, what: str, name: str, known: Iterable[str]) -> None:
        errors.append(f"{place}: {what}: no `{shown(name)}`; {nearest(name, known)}")

    names = list(_mapping(document, "rows", errors).value)
    for row in rows:
        if row not in names:
            unknown("--rows", "rows", row, names)
    if names and table.baseline not in names:
        unknown(document.place(("baseline",)), "baseline", table.baseline, names)
    for i, trend in enumerate(table.trends):
        for row in trend.order:
            if row not in names:
                unknown(document.place(("trends", str(i))), "trends", row, names)
    for row in table.reported:
        if row not in names:
            unknown(document.place(("reported", row)), "reported", row, names)
    asked = [(("columns", str(i)), column) for i, column in enumerate(table.columns)]
    asked += [(("trends", str(i)), trend.column) for i, trend in enumerate(table.trends)]
    model = MODELS[table.model]
    measured = {row: [column.name for column in model.columns(experiment)] for row, experiment in table.rows.items()}
    for location, column in asked:
        without = [row for row, columns in measured.items() if column not in columns]
        if without:
            which = "" if len(without) == len(measured) else f" in row `{without[0]}`"
            unknown(document.place(location), location[0] + which, column, measured[without[0]])
    if not table.datasets:
        errors.append(f"{document.place(())}: datasets: none given; write `datasets: [NAME]` here or in the scale")
    if not table.seeds:
        errors.append(f"{document.place(())}: seeds: none given; write `seeds: [0]` here or in the scale")
    source = overlay if "datasets" in overlay.value else document
    for experiment in table.rows.values():
        for i, dataset in enumerate(table.datasets):
            if dataset not in model.datasets(experiment):
                place = "--datasets" if datasets_given else source.place(("datasets", str(i)))
                unknown(place, "datasets", dataset, model.datasets(experiment))


def _restrict(table: AblationTable, rows: Sequence[str]) -> AblationTable:
    """Keep some rows; the baseline's row stays named although it may be left out."""
    if not rows:
        return table
    return replace(table, rows={name: row for name, row in table.rows.items() if name in rows})
