"""What every test may rely on: no network, no stray MLflow server, one thread, and where real data is."""

import os
import signal

# Before anything imports transformers, datasets, mlflow or torch.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("MLFLOW_EXPERIMENT_NAME", None)

from pathlib import Path

import pytest

# A shell's background jobs ignore Ctrl-C, and so would the commands that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data (`RLM_DATA`, else `../shared/data`); tests that need it are skipped without it."""
    folder = Path(os.environ.get("RLM_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs real data: set RLM_DATA to a folder with qa/, wiki/ and ner/ (looked at {folder})")
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The encyclopedia of 60 entities as a corpus, with its salient spans and questions (`tests.worlds.TinyWorld`)."""
    from tests.worlds import write_world

    return write_world(tmp_path_factory.mktemp("world"))
