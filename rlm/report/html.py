"""A report as one page that needs nothing else."""

from html import escape

from rlm.report.content import Block, Grid, Heading, Items, Paragraph, blocks
from rlm.report.summary import Summary

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
caption { text-align: left; padding-bottom: 0.3rem; }
th, td { padding: 0.2rem 0.6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead, tbody { border-bottom: 1px solid; }
"""


def page(summary: Summary) -> str:
    """The whole page."""
    content = blocks(summary)
    body = "\n".join(_html(block) for block in content)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(summary.table.title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
</body>
</html>"""


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Items(title, items):
            return f"<p>{escape(title)}:</p>\n<ul>\n{''.join(f'<li>{escape(item)}</li>' for item in items)}\n</ul>"
        case Grid(caption, header, lines, total):
            head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
            body = "\n".join(_line(line) for line in lines)
            foot = f"<tfoot>{_line(total)}</tfoot>" if total else ""
            return (
                f'<div class="scroll" tabindex="0"><table><caption>{escape(caption)}</caption>'
                f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>{foot}</table></div>"
            )


def _line(line: list[str]) -> str:
    name, *figures = map(escape, line)
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td>{figure}</td>" for figure in figures)}</tr>'
