"""A rehearsal of everything but the GPU: packed, carried in parts, killed, gone on with elsewhere, taken up, printed."""

import json
import time
from pathlib import Path

import pytest

from benchmarks.gpu.parts import MIB
from tests.faults.killer import predictions, without_costs
from tests.rehearsal.machines import Machine, Workplace

ROWS = ["REALM", "Baseline (ORQA)", "30x stale MIPS"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("here"), ROWS)


def test_jobs__are_all_done_by_machines_that_are_lost_one_after_the_other(here: Workplace, tmp_path: Path) -> None:
    parts = here.pack()
    assert len(parts) >= 3 and all((here.parts / part).stat().st_size <= 0.02 * MIB for part in parts)
    manifest = json.loads((here.parts / "manifest.json").read_text())
    assert not any("of_no_job" in file["path"] for file in manifest["files"])

    begin = time.monotonic()

    # the first machine: not all parts at once, then killed in the middle of a stage, then between two rows
    first = Machine(here, tmp_path / "first")
    first.carry(parts[0])
    first.finish(0.5)
    assert "table2 waits for other parts" in first.log()
    first.carry(*parts[1:])
    first.kill_when(lambda: any(first.work.glob("store/stages/pretrain-*.tmp/checkpoints/last.ckpt")))
    middle = first.taken_away(tmp_path / "back-0")
    first.kill_when(lambda: "table2: Baseline (ORQA)" in first.log())
    between = first.taken_away(tmp_path / "back-1")
    assert len(list(first.work.glob("store/stages/evaluate-*"))) == 1

    # the second has what came back, and stops by itself before its time is over
    second = Machine(here, tmp_path / "second")
    second.carry(*parts, back=[middle, between])
    assert second.finish(0.4) < 0.4 * 60 + 10  # a process's start and end are not its own
    assert "REALM, nq_open" not in second.log()
    stopped = second.taken_away(tmp_path / "back-2")

    # the third does the rest
    third = Machine(here, tmp_path / "third")
    third.carry(*parts, back=[middle, between, stopped])
    third.finish(10)
    last = third.taken_away(tmp_path / "back-3")
    back = [middle, between, stopped, last]
    assert "all jobs were looked at" in third.log()
    assert "| clusters" not in third.log() and "Exact search of 3,000 keys" in (last / "report.md").read_text()
    assert "Baseline (ORQA)" in (last / "report.md").read_text()

    report = "; ".join(f"{out.name}: {sum(file.stat().st_size for file in out.iterdir()):,} bytes" for out in back)
    carried = sum((here.parts / part).stat().st_size for part in parts)
    print(f"\n{len(parts)} parts of {carried:,} bytes; {report}; {time.monotonic() - begin:.0f} s on three machines")

    # here they are finished, and equal to those of an undisturbed run
    here.run("benchmarks.gpu.merge", *map(str, back), "--store", "merged", "--jobs", str(here.jobs))
    here.run("rlm", "run", *here.options("undisturbed"), "--jobs", "1", packages=third.work / "packages")
    merged, undisturbed = here.folder / "merged", here.folder / "undisturbed"
    assert predictions(merged) == predictions(undisturbed) and len(predictions(merged)) == len(ROWS)
    printed = [here.run("rlm", "table", *here.options(store), "--format", "csv") for store in ("merged", "undisturbed")]
    assert without_costs(printed[0]) == without_costs(printed[1])
    assert all(row["exact_match"] for row in without_costs(printed[0]) if row.get("row") in ROWS)

    # what is done is carried to the next machine, and not done again
    fourth = Machine(here, tmp_path / "fourth")
    fourth.carry(*here.pack("--store", str(merged)))
    fourth.finish(1)
    assert " (about " not in fourth.log()
