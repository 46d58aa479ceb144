import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm.errors import StageError
from rlm.report import curves
from rlm.report.results import read_results
from rlm.stages.store import stage_folder
from rlm.table import Cell, distinct_stages, load_table
from tests.report.store import TABLE, answers, finish, table_and_cells, write_stage


def _cell(cells: list[Cell], row: str, seed: int = 0) -> Cell:
    return next(cell for cell in cells if (cell.row, cell.seed) == (row, seed))


def test_read_results__gives_every_question_of_every_seed(tmp_path: Path) -> None:
    table, cells = table_and_cells((0, 3))
    finish(tmp_path, cells, lambda cell: 0.3, questions=50)
    scores = read_results(table, cells, tmp_path).scores["REALM", "encyclopedia", "exact_match"]
    assert scores.seeds == (0, 3)
    assert scores.units == tuple(f"q{i}" for i in range(50))
    np.testing.assert_array_equal(scores.values, 100.0 * np.array([answers(0.3, 50, 0), answers(0.3, 50, 3)]))
    np.testing.assert_array_equal(scores.of((3,)).values, [100.0 * answers(0.3, 50, 3)])
    assert (scores.weights == 1).all()


def test_read_results__reads_recall_from_ranks(tmp_path: Path) -> None:
    table, cells = table_and_cells()
    finish(tmp_path, cells)
    ranks = [1, 5, 6, None, 20]
    lines = [{"id": str(i), "rank": rank} for i, rank in enumerate(ranks)]
    for row in table.rows:
        write_stage(
            tmp_path, _cell(cells, row).stages["zero_shot"], {"zero_shot_recall@5": 40.0}, {"ranks.jsonl": lines}
        )
    scores = read_results(table, cells, tmp_path).scores["REALM", "encyclopedia", "zero_shot_recall@5"]
    assert scores.values.tolist() == [[100, 100, 0, 0, 0]]


def test_read_results__names_the_stages_that_are_missing(tmp_path: Path) -> None:
    table, cells = table_and_cells((0, 1))
    stale = "30x stale MIPS"
    finish(tmp_path, cells, skip=lambda cell, name: cell.row == stale and cell.seed == 1 and name != "zero_shot")
    results = read_results(table, cells, tmp_path)
    # What is finished needs nothing: of the row's zero-shot evaluation only the result is read.
    assert results.missing == {(stale, "encyclopedia"): {1: ["pretrain", "index", "finetune", "evaluate"]}}
    assert results.scores[stale, "encyclopedia", "exact_match"].seeds == (0,)
    assert results.scores[stale, "encyclopedia", "zero_shot_recall@5"].seeds == (0, 1)


def test_read_results__counts_shared_work_once(tmp_path: Path) -> None:
    table, cells = table_and_cells((0, 1))
    finish(tmp_path, cells)
    costs = read_results(table, cells, tmp_path).costs
    assert sum(cost.core_seconds for cost in costs.values()) == 10 * len(distinct_stages(cells))
    # Of its two seeds: the retriever's zero-shot result, index and pre-training are those of the first row.
    assert costs["REALM retriever + baseline encoder", "encyclopedia"].core_seconds == 10 * 2 * len(
        ("finetune", "evaluate")
    )
    assert all(cost.missing == 0 for cost in costs.values())


def test_read_results__counts_gpu_seconds_apart(tmp_path: Path) -> None:
    table, cells = table_and_cells()
    finish(tmp_path, cells)
    write_stage(tmp_path, cells[0].stages["ict"], {}, {}, gpu_seconds=7.0, core_seconds=9.0)
    costs = read_results(table, cells, tmp_path).costs["REALM", "encyclopedia"]
    assert costs.gpu_seconds == 7
    assert costs.core_seconds == 10 * (len(cells[0].needed()) - 1)


def test_read_results__treats_a_damaged_stage_as_missing_and_says_so(tmp_path: Path) -> None:
    table, cells = table_and_cells()
    finish(tmp_path, cells)
    folder = stage_folder(tmp_path, _cell(cells, "30x stale MIPS").stages["evaluate"])
    (folder / "predictions.jsonl").write_bytes((folder / "predictions.jsonl").read_bytes()[:-20])
    results = read_results(table, cells, tmp_path)
    assert results.missing == {("30x stale MIPS", "encyclopedia"): {0: ["evaluate"]}}
    assert len(results.notes) == 1 and "truncated" in results.notes[0] and folder.name in results.notes[0]


def test_read_results__refuses_lines_that_contradict_the_record(tmp_path: Path) -> None:
    table, cells = table_and_cells()
    finish(tmp_path, cells)
    stage = _cell(cells, "REALM").stages["evaluate"]
    record = json.loads((stage_folder(tmp_path, stage) / "stage.json").read_text())
    record["metrics"]["exact_match"] += 1
    (stage_folder(tmp_path, stage) / "stage.json").write_text(json.dumps(record))
    with pytest.raises(StageError, match=r"predictions\.jsonl: does not give the recorded exact_match"):
        read_results(table, cells, tmp_path)


def test_read_results__refuses_rows_that_share_a_retriever_but_differ_in_recall(tmp_path: Path) -> None:
    shutil.copytree(TABLE.parent, tmp_path / "experiments")
    path = tmp_path / "experiments" / TABLE.name
    path.write_text(path.read_text().replace("  REALM: {}\n", "  REALM: {}\n  twin: {evaluate.batch_size: 7}\n"))
    table = load_table(path, "tiny", rows=["REALM", "twin"], seeds=[0])
    cells = table.cells(lambda source: "")
    finish(tmp_path / "store", cells)
    first, twin = (_cell(cells, row).stages["zero_shot"] for row in ("REALM", "twin"))
    assert first.key != twin.key and first.inputs == twin.inputs
    read_results(table, cells, tmp_path / "store")
    lines = [{"id": f"q{i}", "rank": 1} for i in range(200)]
    write_stage(tmp_path / "store", twin, {"zero_shot_recall@5": 100.0}, {"ranks.jsonl": lines})
    with pytest.raises(StageError, match="rows `REALM` and `twin` share a retriever"):
        read_results(table, cells, tmp_path / "store")


def test_read_results__is_empty_when_nothing_is_finished(tmp_path: Path) -> None:
    table, cells = table_and_cells()
    results = read_results(table, cells, tmp_path / "none")
    assert results.empty and not results.finished
    assert set(results.missing) == {(row, "encyclopedia") for row in table.rows}


# Values that JSON may hold where another was written.
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("id", "rank", "exact_match", "retrieved", "prediction", "step", "time", "metrics")


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_read_results__is_results_or_one_message_whatever_a_file_holds(data: st.DataObject) -> None:
    table, cells = table_and_cells(rows=["REALM"])
    line = st.dictionaries(st.sampled_from(FIELDS), ANYTHING) | ANYTHING
    with TemporaryDirectory() as folder:
        store = Path(folder)
        finish(store, cells, questions=10)
        stage = data.draw(st.sampled_from([cells[0].stages[name] for name in ("evaluate", "zero_shot", "pretrain")]))
        path = next(path for path in stage_folder(store, stage).glob("*.jsonl") if path.name != "steps.jsonl")
        lines = [*path.read_text().splitlines(), *map(json.dumps, data.draw(st.lists(line, max_size=2)))]
        content = "\n".join([*data.draw(st.lists(st.text(max_size=5), max_size=1)), *lines]).encode(
            "utf-8", "surrogatepass"
        )
        path.write_bytes(content)
        record = json.loads((path.parent / "stage.json").read_text())
        record["files"][path.name]["bytes"] = len(content)
        record["metrics"].update(
            data.draw(st.dictionaries(st.sampled_from(sorted(record["metrics"])), ANYTHING, max_size=1))
        )
        (path.parent / "stage.json").write_text(json.dumps(record))
        try:
            results = read_results(table, cells, store)
            curves._logged(path.parent)
        except StageError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert results.finished
