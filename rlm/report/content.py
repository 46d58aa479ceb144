"""What a report says, apart from how it is written: headings, tables, paragraphs, lists."""

from dataclasses import dataclass, field

from rlm.report.results import Cost
from rlm.report.statistics import RESAMPLES, Difference
from rlm.report.summary import Summary
from rlm.stages.columns import Column

ABSENT = "–"
MARK = "†"


@dataclass(frozen=True, slots=True)
class Heading:
    """Of the report (level 1) or of a part of it."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Grid:
    """A table."""

    caption: str
    header: list[str]
    lines: list[list[str]]
    total: list[str] = field(default_factory=list)
    names: int = 1
    """Columns of words before those of figures."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list under a few words."""

    title: str
    items: list[str]


Block = Heading | Grid | Paragraph | Items


def blocks(summary: Summary) -> list[Block]:
    """The whole report but for plots."""
    table = summary.table
    about = ", ".join(filter(None, [table.paper, f"scale {table.scale}" if table.scale else ""]))
    content: list[Block] = [Heading(f"{table.title} ({about})" if about else table.title, 1)]
    if summary.results.empty:
        content.append(Paragraph("Nothing is finished yet: `rlm run` computes what is missing."))
    for dataset in table.datasets:
        content += [Heading(dataset), _main(summary, dataset), Paragraph(_legend(summary, dataset))]
        content += filter(None, [_missing(summary, dataset), _differences(summary, dataset), _trends(summary, dataset)])
    if len(table.datasets) > 1:
        content.append(Paragraph(f"Cost of the whole table: {cost(summary.cost())}."))
    if summary.results.finished:
        content.append(_computed(summary))
    if summary.results.notes:
        content.append(Items("Notes", summary.results.notes))
    return content


def cost(spent: Cost) -> str:
    """Core- and GPU-seconds; at least so much, where stages are missing."""
    parts = [
        f"{amount:,.0f} {unit}"
        for amount, unit in ((spent.core_seconds, "core-s"), (spent.gpu_seconds, "GPU-s"))
        if amount
    ]
    return (f"≥ {' + '.join(parts)}" if spent.missing else " + ".join(parts)) if parts else ABSENT


def _columns_reported(summary: Summary, dataset: str) -> set[str]:
    shown = summary.reported_on(dataset)
    return {column for rows in summary.table.reported.values() for column in rows.get(shown, {})}


def _main(summary: Summary, dataset: str) -> Grid:
    table = summary.table
    reported = _columns_reported(summary, dataset)
    on = summary.reported_on(dataset)
    paper = "paper" if on == dataset else f"paper ({on})"
    columns = [table.column(name) for name in table.columns]
    header = ["row"]
    for column in columns:
        header += [column.label, paper] if column.name in reported else [column.label]
    lines = []
    for row in table.rows:
        absent = summary.results.missing.get((row, dataset), {})
        name = f"{row} (baseline)" if row == table.baseline else row
        line = [f"{name} (incomplete)" if absent else name]
        for column in columns:
            line.append(_value(summary, row, dataset, column))
            if column.name in reported:
                theirs = summary.reported(row, dataset, column.name)
                line.append(ABSENT if theirs is None else column.shown(theirs))
        line += [_units(summary, row, dataset), f"{len(table.seeds) - len(absent)}/{len(table.seeds)}"]
        lines.append([*line, cost(summary.cost(row, dataset))])
    total = ["total", *[""] * (len(header) + 1), cost(summary.cost(dataset=dataset))]
    caption = f"Results on {dataset}{_measured_in(columns, [column.unit for column in columns])}"
    return Grid(caption, [*header, "n", "seeds", "cost"], lines, total)


def _measured_in(columns: list[Column], units: list[str]) -> str:
    """The units, after a caption; and which way is better, where that is not the higher for all columns."""
    words = [
        ", ".join(filter(None, [unit, "lower is better" if column.better == "lower" else ""]))
        for column, unit in zip(columns, units, strict=True)
    ]
    if len(set(words)) == 1:
        return f", {'in ' if units[0] else ''}{words[0]}" if words[0] else ""
    parts = [f"{column.label} ({word})" if word else column.label for column, word in zip(columns, words, strict=True)]
    return f": {', '.join(parts)}"


def _value(summary: Summary, row: str, dataset: str, column: Column) -> str:
    place = row, dataset, column.name
    if place not in summary.estimates:
        return ABSENT
    found = summary.estimates[place]
    if column.setting and found.mean == 0:  # the row reads with none
        return ABSENT
    text = column.shown(found.mean) + ("" if found.sd is None else f" ± {column.shown(found.sd)}")
    compared = summary.compared.get(place)
    return f"{text} {MARK}" if compared is not None and compared.significant else text


def _units(summary: Summary, row: str, dataset: str) -> str:
    counts = {
        summary.estimates[row, dataset, column].n
        for column in summary.table.columns
        if (row, dataset, column) in summary.estimates
    }
    return "/".join(f"{n:,}" for n in sorted(counts)) or ABSENT


def _legend(summary: Summary, dataset: str) -> str:
    table = summary.table
    several = len(table.seeds) > 1
    units = " and ".join(dict.fromkeys(table.column(name).units for name in table.columns))
    sentences = [
        f"{units.capitalize()}: {table.measured_on(dataset)}.",
        f"Mean over {len(table.seeds)} seeds ± standard deviation between them." if several else "One seed.",
        f"{MARK}: differs from {table.baseline} at p < 0.05 after Holm's correction over the column's rows"
        f" (paired bootstrap over {units}, {RESAMPLES:,} resamples{', seeds averaged' if several else ''}).",
        f"Intervals and tests tell what other {units} would show, not what other seeds would.",
        "Cost: core-seconds, or GPU-seconds of stages on one; work that rows share is counted once, at the first row"
        " that uses it.",
    ]
    if table.baseline not in table.rows:
        sentences[2] = f"No tests: the baseline row {table.baseline} is left out."
    if _columns_reported(summary, dataset):
        on = summary.reported_on(dataset)
        elsewhere = "" if on == dataset else f" These are on {on}, not {dataset}."
        compare = f"At scale {table.scale}, compare" if table.scale else "Compare"
        smaller = "" if table.scale == "paper" else f" {compare} the order of the rows only."
        sentences.append(f"Paper: {table.reported_source or table.paper}.{elsewhere}{smaller}")
    return " ".join(sentences)


def _missing(summary: Summary, dataset: str) -> Items | None:
    items = []
    for row in summary.table.rows:
        by_roles: dict[tuple[str, ...], list[int]] = {}
        for seed, roles in summary.results.missing.get((row, dataset), {}).items():
            by_roles.setdefault(tuple(roles), []).append(seed)
        for unfinished, seeds in by_roles.items():
            which = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
            items.append(f"{row}, {which}: {', '.join(unfinished)}")
    return Items("Not finished", items) if items else None


def _differences(summary: Summary, dataset: str) -> Grid | None:
    lines = []
    columns = [summary.table.column(name) for name in summary.table.columns]
    for column in columns:
        for row in summary.table.rows:
            compared = summary.compared.get((row, dataset, column.name))
            if compared is None:
                continue
            figures = ["same stages", *[ABSENT] * 4]
            if compared.p_holm is not None:
                found = compared.difference
                figures = [*_figures(found, column), p_value(compared.p_holm), _detectable(found, column)]
            lines.append([row, column.label, *figures])
    if not lines:
        return None
    return Grid(
        f"Differences from {summary.table.baseline} on {dataset}"
        f"{_measured_in(columns, [column.difference_unit for column in columns])}; detectable: the smallest"
        " difference that this n finds with 80 % power",
        ["row", "column", "difference", "95 % interval", "p", "p (Holm)", "detectable"],
        lines,
        names=2,
    )


def p_value(p: float) -> str:
    """As many digits as 10,000 resamples support."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _trends(summary: Summary, dataset: str) -> Grid | None:
    lines = []
    for judged in summary.trends:
        if judged.dataset != dataset:
            continue
        column = summary.table.column(judged.column)
        if len(judged.pairs) > 1:
            lines.append([f" {judged.relation} ".join(judged.order), judged.verdict, column.label, *[""] * 5])
        for pair in judged.pairs:
            verdict = f"{pair.verdict} ({pair.reason})" if pair.reason else pair.verdict
            name = f"{'– ' if len(judged.pairs) > 1 else ''}{pair.first} {pair.relation} {pair.second}"
            figures = [ABSENT] * 5
            if pair.difference is not None:
                found = pair.difference
                figures = [*_figures(found, column), f"{pair.agree}/{pair.seeds}", _detectable(found, column)]
            lines.append([name, verdict, column.label, *figures])
    relations = {judged.relation for judged in summary.trends if judged.dataset == dataset}
    stands = {">": "is higher", "<": "is lower"}.get("".join(relations), "is higher (>) or lower (<)")
    caption = (
        f"Expected trends on {dataset}: held or not held where neighbours differ at p < 0.05 (two-sided, not"
        f" corrected), else undecided at this n; seeds: those in which the first {stands}"
    )
    header = ["expected", "verdict", "column", "difference", "95 % interval", "p", "seeds", "detectable"]
    return Grid(caption, header, lines, names=3) if lines else None


def _figures(difference: Difference, column: Column) -> list[str]:
    return [
        column.signed(difference.mean),
        f"{column.signed(difference.low)} to {column.signed(difference.high)}",
        p_value(difference.p),
    ]


def _detectable(difference: Difference, column: Column) -> str:
    return ABSENT if difference.detectable is None else column.shown(difference.detectable)


def _computed(summary: Summary) -> Paragraph:
    """When, on what, and with which version the finished stages were made."""
    records = summary.results.finished.values()
    days = sorted({record["started"][:10] for record in records})
    devices = sorted({record["device"] for record in records})
    states = [record["git"] for record in records if record["git"]["commit"]]
    commits = sorted({git["commit"][:10] + (" with changes" if git["dirty"] else "") for git in states})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    version = f"; rlm at {', '.join(commits)}" if commits else ""
    return Paragraph(f"Computed {when} on {'; '.join(devices)}{version}.")
