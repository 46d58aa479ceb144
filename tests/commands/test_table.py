import argparse
from pathlib import Path
from typing import Any

import pytest

from rlm import report
from rlm.commands import table
from rlm.errors import ConfigError


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    monkeypatch.setattr(table, "table_of", lambda options: (None, []))
    monkeypatch.setattr(report, "render", lambda *_: "the table")
    (tmp_path / "results").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    return argparse.Namespace(format="latex", store=Path("runs"), out=None)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("results", "--out results: is a folder; name a file in it, such as results/table.tex"),
        ("file/table.tex", "--out file/table.tex: cannot be written (file: "),
    ],
)
def test_table__when_it_cannot_be_written(tmp_path: Path, options: argparse.Namespace, out: str, message: str) -> None:
    options.out = Path(out)
    with pytest.raises(ConfigError) as raised:
        table.main(options)
    assert message in str(raised.value)
    assert ".tmp" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "results"]


def test_table__when_it_is_written(options: argparse.Namespace, capsys: pytest.CaptureFixture[Any]) -> None:
    options.out = Path("new/table.tex")
    assert table.main(options) == 0
    assert options.out.read_text() == "the table\n"
    assert capsys.readouterr().out == ""
