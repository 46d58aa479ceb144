"""A folder with the shipped experiments and a scale of a few steps, and the command line in it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.end_to_end.workplace import HERE, ROOT, TABLE, Command, environment, overlay

SCALES = {
    "scale": "micro",
    "scale/retro": "micro_retro",
    "scale/retro_qa": "micro_retro_qa",
    "scale/knn_lm": "micro_knn_lm",
    "scale/knn_mt": "micro_knn_mt",
}


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped experiments with a scale `micro`: tiny, with a few steps of each training."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    for scales, steps in SCALES.items():
        scale = folder / "experiments" / scales
        tiny, micro = (yaml.safe_load(path.read_text()) for path in (scale / "tiny.yaml", HERE / f"{steps}.yaml"))
        (scale / "micro.yaml").write_text(yaml.safe_dump(overlay(tiny, micro)))
    return folder


@pytest.fixture(scope="session")
def rlm(workplace: Path) -> Command:
    """Runs `rlm ARGUMENTS` in the workplace; a failure shows what it printed."""

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess:
        # the tests' workers share the cores: threads that wait for each other would wait for other tests, too
        alone = ["--threads", "1"] if arguments[0] == "run" else []
        command = [sys.executable, "-m", "rlm", *arguments, *alone]
        done = subprocess.run(command, cwd=workplace, env=environment(), capture_output=True, text=True, timeout=900)
        assert done.returncode == code, f"rlm {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def finished(rlm: Command, workplace: Path) -> subprocess.CompletedProcess:
    """All seven rows of Table 2, run once."""
    return rlm("run", TABLE, "--scale", "micro", "--store", "runs")
