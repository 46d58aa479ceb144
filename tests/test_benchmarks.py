"""The benchmarks' scripts: all can be imported, and what only a GPU's owner runs by hand works on the CPU, too."""

import importlib
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "benchmarks" / "gpu").glob("*.py"))
)
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", SCRIPTS)
def test_script__can_be_imported(name: str) -> None:
    if name == "benchmarks.exact_search":
        pytest.importorskip("faiss")
    assert importlib.import_module(name.removesuffix(".__init__")).__doc__


def test_search_on_a_gpu__finds_what_a_loop_in_float64_finds() -> None:
    from benchmarks.gpu.measures import search_of_clusters

    table = search_of_clusters(CPU, {}, keys=4000, width=16)
    rows = [line.split("|")[1:-1] for line in table if line.startswith("| ") and line[2].isdigit()]
    assert [(row[0].strip(), row[1].strip()) for row in rows] == [
        ("64", "8"),
        ("64", "1,024"),
        ("512", "8"),
        ("512", "1,024"),
    ]
    assert all(float(row[-1]) < 1e-6 for row in rows)


@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [
        ("encoding", {"passages": 16, "layers": 1}, ["BERT-base (1 x 768)", "MiniLM (1 x 384)"]),
        ("dense_search", {"passages": 5000, "queries": 16}, ["2", "16"]),
        ("retro_training", {"batch": 1, "layers": 6, "width": 32, "tokens": 128}, ["RETRO", "language model"]),
    ],
)
def test_measurement__is_a_table_with_its_rows(name: str, options: dict[str, int], rows: list[str]) -> None:
    from benchmarks.gpu.measures import MEASURES

    table = MEASURES[name](CPU, {}, **options)
    start = next(number for number, line in enumerate(table) if line.startswith("|--") or line.startswith("|---"))
    assert [line.split("|")[1].strip() for line in table[start + 1 :]] == rows


def test_search_of_states__reads_the_datastores_of_a_stages_inputs(tmp_path: Path) -> None:
    from benchmarks.gpu.measures import search_of_states
    from benchmarks.knn_lm import write

    for role, keys in (("queries", 100), ("datastore", 3000), ("datastore_2", 500)):
        write(tmp_path / role / "datastore", keys, 16)
    inputs = {role: tmp_path / role for role in ("queries", "datastore", "datastore_2")}
    table = search_of_states(CPU, inputs, k=64)
    assert table[0] == "Exact search of 3,500 keys x 16:"
    assert [line.split("|")[2].strip() for line in table if line.startswith("| ") and line[2].isdigit()] == [
        "8",
        "64",
    ] * 2
