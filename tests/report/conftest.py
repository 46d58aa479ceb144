from pathlib import Path

import pytest

from rlm.table import AblationTable, Cell
from tests.report.store import finish, table_and_cells

RATES = {
    "REALM": 0.60,
    "REALM retriever + baseline encoder": 0.59,
    "Baseline retriever + REALM encoder": 0.50,
    "Baseline (ORQA)": 0.35,
    "REALM with random uniform masks": 0.45,
    "REALM with random span masks": 0.40,
    "30x stale MIPS": 0.42,
}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[AblationTable, list[Cell], Path]:
    """Table 2 with three seeds on 400 questions, but for one row's last seed."""
    store = tmp_path_factory.mktemp("finished")
    table, cells = table_and_cells((0, 1, 2))
    finish(
        store,
        cells,
        lambda cell: RATES[cell.row],
        questions=400,
        skip=lambda cell, name: cell.row == "30x stale MIPS" and cell.seed == 2,
    )
    return table, cells, store
