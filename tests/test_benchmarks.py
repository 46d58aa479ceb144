"""The benchmarks' scripts: all can be imported, and what only a GPU's owner runs by hand works on the CPU, too."""

import importlib
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_script__can_be_imported(name: str) -> None:
    if name == "exact_search":
        pytest.importorskip("faiss")
    assert importlib.import_module(f"benchmarks.{name}").__doc__


def test_gpu_knn__finds_what_a_loop_in_float64_finds() -> None:
    from benchmarks.gpu_knn import searched

    table = searched(4000, 16, [8, 64], torch.device("cpu"))
    rows = [line.split("|")[1:-1] for line in table if line.startswith("| ") and line[2].isdigit()]
    assert [(row[0].strip(), row[1].strip()) for row in rows] == [
        ("64", "8"),
        ("64", "64"),
        ("512", "8"),
        ("512", "64"),
    ]
    assert all(float(row[-1]) < 1e-6 for row in rows)
