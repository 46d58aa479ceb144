"""REALM's report as it was when only REALM could be reported: what other models need may not change it."""

import re
from pathlib import Path

import pytest

from rlm.report import render
from rlm.table import AblationTable, Cell

FROZEN = Path(__file__).parent / "frozen"
SUFFIXES = {"markdown": "md", "latex": "tex", "csv": "csv", "html": "html"}


@pytest.mark.parametrize("form", SUFFIXES)
def test_render__of_realm_is_byte_for_byte_what_it_was(
    finished: tuple[AblationTable, list[Cell], Path], form: str
) -> None:
    printed = render(*finished, form)  # type: ignore[arg-type]
    if form == "html":  # How the plots are drawn is matplotlib's; what is in them stands beside them.
        printed = re.sub(r"<svg.*?</svg>", "", printed, flags=re.DOTALL)
    assert printed == (FROZEN / f"realm.{SUFFIXES[form]}").read_text(encoding="utf-8")
