"""From a store to tables, tests of significance and plots; and scores of other systems (imports nothing heavy)."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rlm.errors import StageError
from rlm.files import write_whole

if TYPE_CHECKING:
    from rlm.report.summary import Summary
    from rlm.table import AblationTable, Cell

Format = Literal["markdown", "latex", "csv", "html"]
_SUFFIXES: dict[Format, str] = {"markdown": ".md", "latex": ".tex", "csv": ".csv", "html": ".html"}


def render(table: "AblationTable", cells: "list[Cell]", store: Path, format: Format) -> str:
    """The table of whatever is finished, without a final line break.

    Raises:
        StageError: finished stages contradict each other.
    """
    from rlm.report.summary import summarise

    return _render(summarise(table, cells, store), format)


def write_reports(table: "AblationTable", cells: "list[Cell]", store: Path) -> Path:
    """Write `tables/<table>/<scale>.html` in the store (`<scale>-<data sets>.html` where others were asked for than the
    table's own), and the other formats beside it.

    Returns:
        the page.

    Raises:
        StageError: some cannot be written; the others are.
    """
    from rlm.report.summary import summarise

    summary = summarise(table, cells, store)
    stem = store / "tables" / table.name / table.report
    mistakes = []
    for format, suffix in _SUFFIXES.items():
        try:
            write_whole(stem.with_name(stem.name + suffix), _render(summary, format))
        except StageError as error:
            mistakes.append(str(error))
    if mistakes:
        raise StageError("\n".join(mistakes))
    return stem.with_name(stem.name + _SUFFIXES["html"])


def score(predictions: Path, answers: Path, answer_kind: Literal["string", "regex"] | None = None) -> str:
    """Exact match of any system's predictions, as text; see `rlm.report.scoring`."""
    from rlm.report.scoring import score_files

    return str(score_files(predictions, answers, answer_kind))


def _render(summary: "Summary", format: Format) -> str:
    from rlm.report import html, text

    renderers = {"markdown": text.markdown, "latex": text.latex, "csv": text.csv, "html": html.page}
    return renderers[format](summary)
