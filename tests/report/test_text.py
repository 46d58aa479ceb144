import csv
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rlm.report import render, write_reports
from rlm.report.content import Grid, Heading, Items, Paragraph
from rlm.report.summary import summarise
from rlm.report.text import _latex, _markdown, escape_latex
from rlm.table import AblationTable, Cell, load_table
from tests.report.conftest import RATES
from tests.report.store import ROOT, TABLE, finish, table_and_cells

Finished = tuple[AblationTable, list[Cell], Path]
STRANGE = r"50% & more_stuff #1 {x} $y ~^\ | *"


def _table_lines(markdown: str, caption: str) -> dict[str, list[str]]:
    """Cells of a Markdown table by its first column."""
    lines = markdown[markdown.index(caption) :].split("\n\n")[1].splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(line) for line in cells}) == 1
    assert all(re.fullmatch("-+:?", cell) for cell in cells[1])
    return {line[0]: line[1:] for line in cells}


def _nq_open(tmp_path: Path) -> Finished:
    """A data set for which the paper has numbers, under a title and a row that LaTeX and Markdown would take amiss."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    path = tmp_path / "experiments" / TABLE.name
    text = path.read_text().replace("  REALM: {}\n", f"  REALM: {{}}\n  '{STRANGE}': {{pretrain.candidates: 3}}\n")
    path.write_text(text)
    table = load_table(path, "tiny", datasets=["nq_open"], seeds=[0])
    cells = table.cells(lambda source: "")
    finish(tmp_path / "store", cells, lambda cell: RATES.get(cell.row, 0.5), questions=300)
    return table, cells, tmp_path / "store"


def test_markdown__shows_the_figures_of_each_row(finished: Finished) -> None:
    summary = summarise(*finished)
    shown = _table_lines(render(*finished, "markdown"), "Results on encyclopedia")
    paper = "paper (nq_open)"
    assert shown["row"] == ["exact match", paper, "zero-shot recall@5", paper, "n", "seeds", "cost"]
    for row in RATES:
        name = {"REALM": "REALM (baseline)", "30x stale MIPS": "30x stale MIPS (incomplete)"}.get(row, row)
        found = summary.estimates[row, "encyclopedia", "exact_match"]
        compared = summary.compared.get((row, "encyclopedia", "exact_match"))
        mark = " †" if compared and compared.p_holm is not None and compared.p_holm < 0.05 else ""
        assert shown[name][0] == f"{found.mean:.1f} ± {found.sd:.1f}{mark}"
        assert shown[name][4:6] == ["400", "2/3" if row == "30x stale MIPS" else "3/3"]
    assert shown["Baseline (ORQA)"][0].endswith("†")
    assert shown["REALM retriever + baseline encoder"][2] == shown["REALM (baseline)"][2]
    assert shown["total"][-1] == f"≥ {summary.cost().core_seconds:,.0f} core-s"


def test_markdown__names_what_is_missing(finished: Finished) -> None:
    assert "- 30x stale MIPS, seed 2: pretrain, index, zero_shot, finetune, evaluate" in render(*finished, "markdown")


def test_markdown__gives_differences_and_trends(finished: Finished) -> None:
    printed = render(*finished, "markdown")
    differences = _table_lines(printed, "Differences from REALM")
    assert differences["Baseline (ORQA)"][0] == "zero-shot recall@5", "the last of the row's lines"
    assert differences["REALM retriever + baseline encoder"][1] == "same stages"
    trends = _table_lines(printed, "Expected trends")
    assert trends["REALM > Baseline (ORQA)"][0] == "held"
    assert trends["REALM > Baseline (ORQA)"][2].startswith("+")
    assert trends["– REALM with random span masks > REALM with random uniform masks"][0] == "not held"


def test_markdown__says_that_the_paper_s_numbers_are_of_another_data_set(finished: Finished) -> None:
    printed = render(*finished, "markdown")
    assert _table_lines(printed, "Results on encyclopedia")["Baseline (ORQA)"][1] == "31.3"
    assert "These are on nq_open, not encyclopedia" in printed


def test_markdown__has_the_paper_s_numbers_and_their_source(tmp_path: Path) -> None:
    printed = render(*_nq_open(tmp_path), "markdown")
    shown = _table_lines(printed, "Results on nq_open")
    assert shown["row"][:4] == ["exact match", "paper", "zero-shot recall@5", "paper"]
    assert (shown["REALM (baseline)"][1], shown["REALM (baseline)"][3]) == ("38.2", "38.5")
    assert shown[re.sub(r"([|*\\])", r"\\\1", STRANGE)][1] == "–"
    assert "arXiv 2002.08909" in printed
    assert "±" not in shown["REALM (baseline)"][0], "one seed has no deviation"


@pytest.mark.parametrize("form", ["markdown", "latex", "html"])
def test_render__shows_dashes_when_nothing_is_finished(tmp_path: Path, form: str) -> None:
    table, cells = table_and_cells((0, 1))
    printed = render(table, cells, tmp_path / "none", form)
    assert "Nothing is finished yet" in printed
    assert "REALM (baseline) (incomplete)" in printed
    if form == "markdown":
        lines = _table_lines(printed, "Results on encyclopedia")
        assert lines["Baseline (ORQA) (incomplete)"] == ["–", "31.3", "–", "13.9", "–", "0/2", "–"]


def test_latex__is_balanced_and_escaped(tmp_path: Path) -> None:
    printed = render(*_nq_open(tmp_path), "latex")
    code = "\n".join(line for line in printed.splitlines() if not line.startswith("%"))
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", code):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    for rows in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", code, flags=re.DOTALL):
        widths = {len(re.findall(r"(?<!\\)&", line)) + 1 for line in rows[1].splitlines() if line.endswith(r"\\")}
        assert widths == {len(rows[0])}
    bare = re.sub(r"\\[&%$#_{}\\]", "", code)
    bare = re.sub(r"\\textasciitilde\{\}|\\textasciicircum\{\}|\\textbackslash\{\}|\$\^\{\\dagger\}\$", "", bare)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert not re.search(r"[%#_~^]", bare)
    assert "toprule" in code and "midrule" in code and "bottomrule" in code
    assert escape_latex(STRANGE) in code
    assert code.isascii(), "no character that pdflatex would refuse"


def test_csv__reads_back_as_the_summary(finished: Finished) -> None:
    summary = summarise(*finished)
    lines = list(csv.DictReader(io.StringIO(render(*finished, "csv"))))
    assert [line["row"] for line in lines] == list(RATES)
    for line in lines:
        place = line["row"], "encyclopedia", "exact_match"
        found, compared = summary.estimates[place], summary.compared.get(place)
        assert float(line["exact_match"]) == pytest.approx(found.mean)
        assert float(line["exact_match_sd"]) == pytest.approx(found.sd)
        assert float(line["exact_match_low"]) == pytest.approx(found.low)
        assert int(line["exact_match_n"]) == 400
        if compared is None:
            assert (line["baseline"], line["exact_match_p_holm"]) == ("1", "")
        else:
            assert float(line["exact_match_p_holm"]) == pytest.approx(compared.p_holm)
            assert float(line["exact_match_detectable"]) == pytest.approx(compared.difference.detectable)
    assert lines[-1]["missing"] == "seed 2: pretrain index zero_shot finetune evaluate"
    assert sum(float(line["core_seconds"]) for line in lines) == summary.cost().core_seconds


def test_write_reports__writes_every_format_beside_the_page(finished: Finished) -> None:
    page = write_reports(*finished)
    written = {path.suffix: path.read_text() for path in page.parent.iterdir()}
    assert set(written) == {".html", ".md", ".tex", ".csv"} and page.suffix == ".html"
    for suffix, form in ((".md", "markdown"), (".tex", "latex"), (".csv", "csv"), (".html", "html")):
        assert written[suffix] == render(*finished, form) + "\n"


def test_write_reports__of_other_data_sets_leave_the_table_s_own(finished: Finished) -> None:
    table, cells, store = finished
    own = write_reports(table, cells, store)
    other = write_reports(replace(table, chosen=("web_questions", "curated_trec")), cells, store)
    assert other.stem == f"{own.stem}-web_questions-curated_trec" and own.exists()


@pytest.mark.parametrize(
    ("name", "markdown", "latex"),
    [
        ("a|b", r"a\|b", r"a\textbar{}b"),
        ("*x*", r"\*x\*", "{*}x{*}"),
        ("[a] b", "[a] b", "{[}a] b"),
        ("[a](b)", r"[a]\(b)", "{[}a](b)"),
        ("<b>x</b>", r"\<b>x\</b>", "$<$b$>$x$<$/b$>$"),
        ("`x`", r"\`x\`", "`x`"),
        ("_a_ zero_shot", r"\_a\_ zero_shot", r"\_a\_ zero\_shot"),
        ("p < 0.05", "p < 0.05", "p $<$ 0.05"),
        ("50 % & $5", "50 % & $5", r"50 \% \& \$5"),
    ],
)
def test_names__that_mean_something_in_a_format_are_shown_as_they_are(name: str, markdown: str, latex: str) -> None:
    grid = Grid(name, ["row", "n"], [[name, "1"]])
    assert f"| {markdown} " in _markdown(grid)
    assert _markdown(grid).startswith(f"{markdown}:")
    assert f"  {latex} & 1" in _latex(grid)
    assert _markdown(Heading(name)) == f"## {markdown}"


def test_paragraphs__keep_their_code() -> None:
    assert _markdown(Paragraph("`rlm run` of *x*; a|b")) == r"`rlm run` of \*x\*; a|b"
    assert _markdown(Items("Notes", ["`rlm run`, a|b"])) == "Notes:\n\n- `rlm run`, a\\|b"
