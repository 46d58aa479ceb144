import json
import re
import shutil
import subprocess
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlm.report import render
from rlm.table import AblationTable, Cell
from tests.report.conftest import RATES
from tests.report.store import finish, table_and_cells

Finished = tuple[AblationTable, list[Cell], Path]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (Debian: apt-get install chromium)")
PHONE = 390
# Where texts of a plot lie on each other, and whether anything is wider than the screen.
MEASURE = """
<script>
const measured = {collisions: [], plots: []};
for (const plot of document.querySelectorAll("svg.plot")) {
  const box = plot.getBoundingClientRect();
  const texts = [...plot.querySelectorAll("text")].map(t => [t.textContent, t.getBoundingClientRect()]);
  measured.plots.push({width: box.width, height: box.height, texts: texts.length, name: plot.textContent.slice(0, 60)});
  for (const [name, a] of texts) {
    if (a.left < box.left - 1 || a.right > box.right + 1) measured.collisions.push([name, "edge"]);
    for (const [other, b] of texts)
      if (name !== other && a.left < b.right - 1 && b.left < a.right - 1
          && a.top < b.bottom - 2 && b.top < a.bottom - 2)
        measured.collisions.push([name, other]);
  }
}
measured.viewport = innerWidth;
measured.width = document.documentElement.scrollWidth;
measured.tables = document.querySelectorAll("table").length;
measured.scrolls = [...document.querySelectorAll(".scroll")].some(box => box.scrollWidth > box.clientWidth);
const result = document.createElement("pre");
result.id = "measured";
result.textContent = JSON.stringify(measured);
parent.document.body.append(result);
</script>
"""


def _chromium(tmp_path: Path, page: Path, *options: str) -> subprocess.CompletedProcess:
    assert CHROMIUM is not None
    profile = tmp_path / "profile"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={profile}", f"--window-size={PHONE},900", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done


def _complaints(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


class _Outline(HTMLParser):
    """Checks that elements close in the order in which they opened."""

    EMPTY = ("meta", "link", "br", "hr", "img", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page__is_one_well_formed_file_that_asks_for_nothing(finished: Finished) -> None:
    text = render(*finished, "html")
    outline = _Outline(text)
    assert not outline.open
    assert len(outline.ids) == len(set(outline.ids)), "plots on one page may not share an id"
    assert {"script", "link", "img", "iframe", "image"}.isdisjoint(outline.seen)
    assert not re.search(r'(src|href)="(?!#)|url\((?!#)|@import', text)
    assert 'name="viewport"' in text


def test_page__has_plots_with_text_and_a_description(finished: Finished) -> None:
    text = render(*finished, "html")
    titles = re.findall(r'<svg class="plot" role="img"[^>]*><title[^>]*>([^<]*)</title><desc', text)
    assert titles == [
        "Exact match",
        "Zero-shot recall@5",
        "Zero-shot recall@5 over pre-training",
        "How stale the index is",
        *(f"Loss of {name}" for name in ("ict", "warm start", "pretrain", "finetune")),
    ]
    for row in RATES:
        assert re.search(rf"<text[^>]*>{re.escape(row)}</text>", text), "text stays text"
    assert not re.search(r"#f[de]00[0-9a-f]{2}", text), "a colour that stood for a variable"
    assert text.count("<details>") == len(titles), "the values of each plot"


def test_page__is_the_same_when_written_again(finished: Finished) -> None:
    assert render(*finished, "html") == render(*finished, "html")


def test_page__escapes_names(tmp_path: Path) -> None:
    from dataclasses import replace

    table, cells = table_and_cells(rows=["REALM"])
    finish(tmp_path, cells)
    text = render(replace(table, title="<script>alert(1)</script> & co"), cells, tmp_path, "html")
    assert "<script" not in text and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in text


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("width", [PHONE, 1000])
def test_page__opens_in_a_browser_without_errors_and_fits(finished: Finished, tmp_path: Path, width: int) -> None:
    text = render(*finished, "html").replace("</body>", MEASURE + "</body>")
    # A window is never narrower than 500 points; a frame in it is.
    page = tmp_path / "page.html"
    page.write_text(
        f'<!doctype html><iframe style="border: 0; width: {width}px; height: 800px" srcdoc="{escape(text)}"></iframe>'
    )
    done = _chromium(tmp_path, page, "--dump-dom")
    assert _complaints(done) == []
    found = re.search(r'<pre id="measured">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None
    measured = json.loads(unescape(found[1]))
    assert measured["viewport"] == width
    assert measured["width"] <= width
    assert measured["tables"] >= 3 + len(measured["plots"])
    assert len(measured["plots"]) == 8
    assert all(plot["width"] > 300 and plot["height"] > 100 and plot["texts"] > 5 for plot in measured["plots"])
    assert measured["collisions"] == []
    assert measured["scrolls"] == (width == PHONE), "tables scroll in their own box on a phone"


@pytest.mark.browser
@needs_browser
def test_browser__reports_an_error_on_a_page_that_has_one(tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text("<!doctype html><script>console.error('broken')</script>")
    assert _complaints(_chromium(tmp_path, page, "--dump-dom"))


@pytest.mark.browser
@needs_browser
def test_page__is_painted_at_a_phone_s_width(finished: Finished, tmp_path: Path) -> None:
    from PIL import Image

    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(render(*finished, "html"))
    _chromium(tmp_path, page, "--hide-scrollbars", f"--screenshot={picture}")
    with Image.open(picture) as image:
        assert image.width == PHONE
        colours = image.convert("L").getcolors() or []
    assert len(colours) > 50, "text and lines, not a blank page"
