"""What comes back, and what of it is taken up."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu.merge import Results, take_up


def stage(store: Path, name: str, text: str = "prediction\n") -> Path:
    """A finished stage with one file."""
    folder = store / "stages" / name
    folder.mkdir(parents=True)
    (folder / "predictions.jsonl").write_text(text)
    data = text.encode()
    described = {"predictions.jsonl": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    (folder / "stage.json").write_text(json.dumps({"name": name.partition("-")[0], "files": described}))
    (folder / "log.txt").write_text("stays")
    return folder


@pytest.fixture
def back(tmp_path: Path) -> Path:
    """Two finished stages in one file."""
    out = tmp_path / "back"
    out.mkdir()
    results = Results(out)
    assert all(results.add(stage(tmp_path / "there", name)) for name in ("evaluate-0", "zero_shot-0"))
    return out


def test_results__fill_files_up_to_the_limit_and_no_more(tmp_path: Path) -> None:
    import random

    out, noise = tmp_path / "out", random.Random(0)
    out.mkdir()
    results = Results(out, limit=6000, files=2)
    texts = [noise.randbytes(1500).hex() for _ in range(6)]
    added = [results.add(stage(tmp_path / "there", f"evaluate-{i}", text)) for i, text in enumerate(texts)]
    assert added == [True] * 4 + [False] * 2
    assert sorted(path.name for path in out.iterdir()) == ["results-0.zip", "results-1.zip"]
    assert all(path.stat().st_size <= 6000 for path in out.iterdir())
    taken, wrong = take_up(sorted(out.iterdir()), tmp_path / "here")
    assert taken == [f"stages/evaluate-{i}" for i in range(4)] and not wrong


def test_results__are_whole_files_at_any_time(back: Path, tmp_path: Path) -> None:
    before = (back / "results-0.zip").read_bytes()
    results = Results(tmp_path / "back")
    results.add(tmp_path / "there" / "stages" / "evaluate-0")
    (back / "results-0.zip.part").write_bytes(before[: len(before) // 2])  # killed while a file was replaced
    taken, wrong = take_up(sorted(back.glob("results-*.zip")), tmp_path / "here")
    assert taken == ["stages/evaluate-0"] and not wrong


def test_take_up__gives_whole_stages_and_leaves_what_is_there(back: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    kept = stage(here, "evaluate-0", "computed here\n")
    assert take_up([back / "results-0.zip"], here) == (["stages/zero_shot-0"], [])
    assert (kept / "predictions.jsonl").read_text() == "computed here\n"
    assert sorted(path.name for path in (here / "stages" / "zero_shot-0").iterdir()) == [
        "predictions.jsonl",
        "stage.json",
    ]
    assert take_up([back / "results-0.zip"], here) == ([], [])


def test_take_up__replaces_a_damaged_stage(back: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    damaged = stage(here, "evaluate-0")
    (damaged / "predictions.jsonl").write_text("pre")
    assert take_up([back / "results-0.zip"], here)[0] == ["stages/evaluate-0", "stages/zero_shot-0"]
    assert (damaged / "predictions.jsonl").read_text() == "prediction\n"


@pytest.mark.parametrize("cut", [0, 10, 200, -30])
def test_take_up__names_a_file_that_was_cut_off(back: Path, tmp_path: Path, cut: int) -> None:
    path = back / "results-0.zip"
    path.write_bytes(path.read_bytes()[:cut])
    taken, wrong = take_up([path], tmp_path / "here")
    assert not taken and len(wrong) == 1 and "no whole zip file" in wrong[0]
    assert not list((tmp_path / "here").rglob("*.jsonl"))


def test_take_up__refuses_a_stage_whose_bytes_changed_and_takes_the_other(back: Path, tmp_path: Path) -> None:
    path, data = back / "results-0.zip", bytearray((back / "results-0.zip").read_bytes())
    data[data.index(b"predictions.jsonl") + 40] ^= 0xFF
    path.write_bytes(bytes(data))
    taken, wrong = take_up([path], tmp_path / "here")
    assert taken == ["stages/zero_shot-0"]
    assert len(wrong) == 1 and "stages/evaluate-0" in wrong[0] and "not taken" in wrong[0]


def test_take_up__refuses_a_stage_without_one_of_its_files(tmp_path: Path) -> None:
    folder = stage(tmp_path / "there", "evaluate-0")
    with zipfile.ZipFile(tmp_path / "results-0.zip", "w") as archive:
        archive.write(folder / "stage.json", "stages/evaluate-0/stage.json")
    taken, wrong = take_up([tmp_path / "results-0.zip"], tmp_path / "here")
    assert not taken and wrong[0].endswith("stages/evaluate-0: predictions.jsonl is missing; not taken")


@pytest.mark.parametrize("name", ["../out", "stages/../../out", "stages/x/../../../out", "other/x/y", "stages/.."])
def test_take_up__writes_nowhere_else(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "results-0.zip", "w") as archive:
        archive.writestr(name, "x")
    store = tmp_path / "below" / "here"
    assert take_up([tmp_path / "results-0.zip"], store)[0] == []
    assert [path.name for path in tmp_path.rglob("*")] == ["results-0.zip"]
