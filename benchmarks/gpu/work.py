"""Works on the other side: `python -m benchmarks.gpu.work --parts FOLDER --out OUT --minutes 9.5`.

Unpacks the parts that have arrived, takes up what was brought back earlier (`results-*.zip` anywhere below the parts),
goes on where this machine was, does the next task of the list that can be done, and stops by itself before its time is
over. What can be taken away is in OUT as soon as it is finished, whatever happens then: `report.md`, `log.txt` and
`results-*.zip`, at most eight files of at most 16 MiB. Of an unfinished stage nothing travels (two encoders with their
optimizer are half a gigabyte); its checkpoints are in `--work`, for the next command on this machine.
"""

import argparse
import importlib.metadata
import os
import sys
import time
import zipfile
from pathlib import Path

from benchmarks.gpu.parts import unpack

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Work until the time is over or all is done.

    Returns:
        0, or 1 where a task failed.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=Path, required=True, metavar="FOLDER", help="manifest, parts, earlier results")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="what is taken away")
    parser.add_argument("--minutes", type=float, default=9.5, help="until the command must have ended (9.5)")
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/rlm-gpu"), metavar="FOLDER", help="kept by this machine"
    )
    parser.add_argument("--jobs", type=Path, metavar="FILE", help="list of jobs (default: jobs.yaml beside this file)")
    parser.add_argument("--at-a-time", type=int, default=2, metavar="N", help="stages that share the GPU (2)")
    parser.add_argument("--workers", type=int, metavar="N", help="data-loading processes of a training (6 with a GPU)")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    there, notes = unpack(options.parts, options.work)
    install(options.work)
    from benchmarks.gpu.session import Session  # reads packages that were installed just now

    return Session(options, there, notes, end).run()


def install(work: Path) -> None:
    """Let this process and those that it starts find the packages that travelled: a checkpoint's before any other, a
    wheel only where the machine lacks it."""
    for wheel in sorted((work / "wheels").glob("*.whl")):
        try:
            importlib.metadata.version(wheel.name.partition("-")[0])
        except importlib.metadata.PackageNotFoundError:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(work / "site")
    paths = [str(work.resolve() / "packages"), str(work.resolve() / "site"), str(ROOT)]
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["HF_HUB_OFFLINE"] = "1"


if __name__ == "__main__":
    raise SystemExit(main())
