"""The commands of the README and the docs: cheap ones are run, all are parsed."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlm.cli import parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CHEAP = ("rlm plan", "rlm score", "rlm data check", "rlm --", "echo ")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    return [line for block in blocks(page, "bash") for line in block.splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the experiments, the README's own table, a little data, and `rlm` on the path."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    own = [block for block in blocks(ROOT / "README.md", "yaml") if block.startswith("title:")]
    (folder / "experiments" / "candidates.yaml").write_text(own[0])
    qa = folder / "data" / "qa"
    qa.mkdir(parents=True)
    for split in ("train", "dev", "test"):
        (qa / f"nq_open.{split}.jsonl").write_text('{"id": "1", "question": "who", "answers": ["me"]}\n')
    script = folder / "bin" / "rlm"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rlm "$@"\n')
    script.chmod(0o755)
    return folder


def test_readme__cheap_commands_succeed(checkout: Path) -> None:
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    ran = []
    for command in commands(ROOT / "README.md"):
        if command.startswith(CHEAP):
            done = subprocess.run(
                ["bash", "-c", command], cwd=checkout, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            ran.append(command)
    assert {"rlm plan", "rlm score", "rlm data check"} <= {c for c in CHEAP for r in ran if r.startswith(c)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page__commands_parse(page: Path) -> None:
    for command in commands(page):
        words = shlex.split(command, comments=True)
        if words[0] == "rlm":
            parser().parse_args(words[1:])


def test_readme__shows_lines_of_the_table_file_it_names() -> None:
    shown = blocks(ROOT / "README.md", "yaml")[0].splitlines()
    table = (ROOT / "experiments" / "realm_table2.yaml").read_text().splitlines()
    assert [line for line in shown if not line.startswith("#") and line not in table] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page__names_nox_sessions_that_exist(page: Path) -> None:
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    sessions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list}
    assert "tests" in sessions
    assert set(re.findall(r"nox -s (\w+)", page.read_text())) <= sessions


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page__links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists() and link != "docs/results.md"] == []
