"""A report as one page that needs nothing else."""

from html import escape
from itertools import islice

from rlm.report.content import Block, Grid, Heading, Items, Paragraph, blocks
from rlm.report.figures import Drawn, figures, written
from rlm.report.plots import DARK, LIGHT, swatch
from rlm.report.results import read_lines, read_written
from rlm.report.summary import Summary
from rlm.stages.models import MODELS

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --page: #ffffff; --rule: #c8c8c8; LIGHT }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --page: #16181b; --rule: #4a4d52; DARK } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem;
       color: var(--ink); background: var(--page); overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin: 2.5rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 2rem 0 0.5rem; }
p, li { max-width: 44rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
/* Collapsed borders would stay behind when the first column sticks. */
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
caption { text-align: left; padding-bottom: 0.4rem; }
caption span { display: block; max-width: min(44rem, calc(100vw - 2rem)); position: sticky; left: 0; }
th, td { padding: 0.25rem 0.6rem; text-align: right; white-space: nowrap; font-weight: normal; vertical-align: top; }
th:first-child { text-align: left; padding-left: 0; position: sticky; left: 0; background: var(--page);
                 white-space: normal; min-width: 8.5rem; }
.name { text-align: left; } td.name { white-space: normal; }
thead th { font-weight: 600; vertical-align: bottom; white-space: normal; }
thead th { border-bottom: 2px solid var(--rule); } tfoot > tr > * { border-top: 2px solid var(--rule); }
tbody > tr + tr > * { border-top: 1px solid var(--rule); }
figure { margin: 0.5rem 0; max-width: 36rem; }
svg.plot { display: block; width: 100%; height: auto; }
svg.plot text { font-family: inherit !important; }
svg.swatch { width: 2rem; height: 0.6rem; margin-right: 0.4rem; }
figcaption { font-size: 0.9rem; }
ul.legend { list-style: none; padding: 0; margin: 0; }
ul.legend li { padding-left: 2.5rem; text-indent: -2.5rem; }
details { max-width: 100%; } summary { cursor: pointer; }
"""


def page(summary: Summary) -> str:
    """The whole page."""
    style = _STYLE
    for word, colours in (("LIGHT", LIGHT), ("DARK", DARK)):
        style = style.replace(word, " ".join(f"--series-{i}: {colour};" for i, colour in enumerate(colours)))
    drawn = "\n".join(map(_figure, figures(summary)))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(summary.table.title)}</title>
<style>{style}</style>
</head>
<body>
<main>
{"".join(_block(block) for block in blocks(summary))}
{f"<h2>Plots</h2>{drawn}" if drawn else ""}{_examples(summary)}
</main>
</body>
</html>"""


def _examples(summary: Summary) -> str:
    """Single cases of the first row that has them."""
    found = ""
    for dataset in summary.table.datasets:
        for wanted in MODELS[summary.table.model].examples:
            for row, path in islice(written(summary, dataset, wanted.role, wanted.file), 1):
                lines = list(read_written(path, wanted.read, read_lines(path)))
                caption = f"{wanted.title}: {row} on {dataset}"
                found += _block(Grid(caption, list(wanted.header), lines, names=wanted.names))
    return f"\n<h2>Examples</h2>\n{found}" if found else ""


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>\n"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>\n"
        case Items(title, items):
            return f"<p>{escape(title)}:</p>\n<ul>\n{''.join(f'<li>{escape(item)}</li>' for item in items)}\n</ul>\n"
        case Grid(caption, header, lines, total, names):
            head = "".join(f"<th{_kind(i, names)}>{escape(cell)}</th>" for i, cell in enumerate(header))
            body = "\n".join(_line(line, names) for line in lines)
            foot = f"<tfoot>{_line(total, names)}</tfoot>" if total else ""
            return (
                f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
                f"<caption><span>{escape(caption)}</span></caption><thead><tr>{head}</tr></thead>\n"
                f"<tbody>{body}</tbody>{foot}</table></div>\n"
            )


def _line(line: list[str], names: int) -> str:
    first, *others = map(escape, line)
    cells = "".join(f"<td{_kind(i, names)}>{cell}</td>" for i, cell in enumerate(others, 1))
    return f'<tr><th scope="row">{first}</th>{cells}</tr>'


def _kind(column: int, names: int) -> str:
    return ' class="name"' if column < names else ""


def _figure(drawn: Drawn) -> str:
    legend = "".join(f"<li>{swatch(row)}{escape(text)}</li>" for row, text in drawn.legend)
    caption = f'<ul class="legend">{legend}</ul>' if legend else ""
    return (
        f"<h3>{escape(drawn.title)}</h3>\n<figure>{drawn.svg}\n<figcaption>{caption}{escape(drawn.caption)}</figcaption>"
        f"</figure>\n<details><summary>Values</summary>{''.join(map(_block, drawn.values))}</details>\n"
    )
