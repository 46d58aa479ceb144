"""What kNN-MT's stages are expected to cost."""

from pathlib import Path

import pytest

from rlm.data.content import content_digest
from rlm.stages.forecast import Forecast, Machine
from rlm.table import distinct_stages, load_table

MACHINE = Machine(device="cpu", threads=2)
TABLE = Path(__file__).parents[2] / "experiments" / "knn_mt.yaml"


def costs(tmp_path: Path, *settings: str, data: Path | None = None, scale: str = "tiny") -> dict[str, float]:
    """Seconds of each role in the row with a datastore."""
    table = load_table(TABLE, scale, rows=["+ kNN"], settings=settings)
    cell = table.cells(lambda source: content_digest(source, data) if data else "")[0]
    forecast = Forecast(tmp_path, MACHINE, data)
    return {role: forecast.cost(stage).seconds for role, stage in cell.stages.items()}


@pytest.mark.parametrize(
    ("setting", "role"),
    [
        ("train.training.steps=4000", "train"),
        ("model.hidden_size=512", "train"),
        ("domains.general.train.source.sentences=10000000", "training_text"),
        ("domains.law.train.source.sentences=4000000", "datastore_0"),
        ("domains.law.test.source.sentences=200000", "translate"),
        ("decode.beams=40", "translate"),
    ],
)
def test_cost__grows_with_the_work(tmp_path: Path, setting: str, role: str) -> None:
    before, after = costs(tmp_path), costs(tmp_path, setting)
    assert after[role] > 1.5 * before[role]


def test_cost__of_the_tiny_table_is_minutes(tmp_path: Path) -> None:
    forecast = Forecast(tmp_path, MACHINE)
    cells = load_table(TABLE, "tiny").cells(lambda source: "")
    assert 30 < sum(forecast.cost(stage).seconds for stage, _ in distinct_stages(cells).values()) < 900


def test_cost__of_files_is_known_by_their_size(tmp_path: Path) -> None:
    sizes = {}
    for size in (10_000, 100_000_000):
        folder = tmp_path / str(size)
        (folder / "mt").mkdir(parents=True)
        for name in ("multi30k.train", "multi30k.test", "software.train", "software.test"):
            with (folder / "mt" / f"{name}.jsonl.gz").open("wb") as file:
                file.truncate(size)
        sizes[size] = costs(tmp_path, data=folder, scale="small")["training_text"]
    assert sizes[100_000_000] > 10 * sizes[10_000]
