"""A report as Markdown, LaTeX (booktabs) and CSV."""

import csv as csv_format
import io
import re

from rlm.report.content import Block, Grid, Heading, Items, Paragraph, blocks
from rlm.report.summary import Summary

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "†": r"$^{\dagger}$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "–": "--",
    "−": "$-$",
    "|": r"\textbar{}",
    # a line or an item that begins with one of these would be read as an argument of the command before it
    "[": "{[}",
    "*": "{*}",
}
_MARKUP = r"[*\\]|<(?=[\w/!?])|(?<=\])\(|(?<!\w)_|_(?!\w)"
"""What Markdown would take for markup: emphasis, HTML, links. Running text has code in backticks, and no cells."""


def markdown(summary: Summary) -> str:
    """GitHub's Markdown, with columns aligned so that it reads well on a terminal too."""
    return "\n\n".join(_markdown(block) for block in blocks(summary))


def latex(summary: Summary) -> str:
    """Tables for a document that uses booktabs."""
    return "\n\n".join(_latex(block) for block in blocks(summary))


def csv(summary: Summary) -> str:
    """One line for each row and data set, figures to ten digits, empty where there is none."""
    table = summary.table
    lines = []
    for dataset in table.datasets:
        for row in table.rows:
            missing = summary.results.missing.get((row, dataset), {})
            spent = summary.cost(row, dataset)
            line: dict[str, float | str | None] = {
                "table": table.name,
                "scale": table.scale,
                "dataset": dataset,
                "row": row,
                "baseline": int(row == table.baseline),
                "seeds_planned": len(table.seeds),
                "seeds_finished": len(table.seeds) - len(missing),
                "missing": "; ".join(f"seed {seed}: {' '.join(roles)}" for seed, roles in missing.items()),
                "core_seconds": spent.core_seconds,
                "gpu_seconds": spent.gpu_seconds,
                "stages_without_cost": spent.missing,
            }
            for column in table.columns:
                line.update(_csv_figures(summary, row, dataset, column))
            lines.append(line)
    buffer = io.StringIO()
    writer = csv_format.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: f"{value:.10g}" if isinstance(value, float) else value for name, value in line.items()} for line in lines
    )
    return buffer.getvalue().rstrip("\n")


def _csv_figures(summary: Summary, row: str, dataset: str, column: str) -> dict[str, float | str | None]:
    place = row, dataset, column
    found, compared = summary.estimates.get(place), summary.compared.get(place)
    reported = summary.reported(row, dataset, column)
    figures: dict[str, float | str | None] = {"": None if found is None else found.mean}
    for name in ("sd", "low", "high", "n", "seeds"):
        figures[f"_{name}"] = None if found is None else getattr(found, name)
    for name, field in (("difference", "mean"), ("difference_low", "low"), ("difference_high", "high"), ("p", "p")):
        figures[f"_{name}"] = None if compared is None else getattr(compared.difference, field)
    figures["_p_holm"] = None if compared is None else compared.p_holm
    figures["_detectable"] = None if compared is None else compared.difference.detectable
    figures["_reported"] = reported
    figures["_reported_source"] = None if reported is None else summary.table.reported_source
    return {f"{column}{name}": value for name, value in figures.items()}


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_escape_markdown(text)}"
        case Paragraph(text):
            return _escape_markdown(text, _MARKUP)
        case Items(title, items):
            return "\n".join([f"{title}:", "", *(f"- {_escape_markdown(item, rf'{_MARKUP}|[|]')}" for item in items)])
        case Grid(caption, header, lines, total, names):
            grid = [[_escape_markdown(cell) for cell in line] for line in [header, *lines, *([total] if total else [])]]
            widths = [max(3, *(len(line[i]) for line in grid)) for i in range(len(header))]
            rule = ["-" * width if i < names else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
            written = []
            for line in [grid[0], rule, *grid[1:]]:
                padded = [*map(str.ljust, line[:names], widths), *map(str.rjust, line[names:], widths[names:])]
                written.append(f"| {' | '.join(padded)} |")
            return "\n".join([f"{_escape_markdown(caption)}:", "", *written])


def _escape_markdown(text: str, markup: str = rf"{_MARKUP}|[|`]") -> str:
    return re.sub(f"({markup})", r"\\\1", text)


def _latex(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"% {text}\n% needs \\usepackage{{booktabs}}" if level == 1 else f"% {text}"
        case Paragraph(text):
            return escape_latex(text.replace("`", "'"))
        case Items(title, items):
            written = [rf"  \item {escape_latex(item)}" for item in items]
            return "\n".join([rf"\paragraph{{{escape_latex(title)}}}", r"\begin{itemize}", *written, r"\end{itemize}"])
        case Grid(caption, header, lines, total, names):
            written = [rf"  {' & '.join(map(escape_latex, line))} \\" for line in [header, *lines]]
            if total:
                written += [r"  \midrule", rf"  {' & '.join(map(escape_latex, total))} \\"]
            return "\n".join(
                [
                    r"\begin{table}[ht]",
                    r"\centering\small",
                    rf"\caption{{{escape_latex(caption)}}}",
                    rf"\begin{{tabular}}{{{'l' * names}{'r' * (len(header) - names)}}}",
                    r"  \toprule",
                    written[0],
                    r"  \midrule",
                    *written[1:],
                    r"  \bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )


def escape_latex(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(_LATEX.get(character, character) for character in text)
