"""What comes back from another machine, and takes it up here: `python -m benchmarks.gpu.merge OUT --store runs`.

Finished stages whose results a table reads (evaluations) come back whole, as zip files, and are finished stages in the
store that takes them up: `rlm table` prints them. Weights and indexes do not come back, so `rlm run` would compute
those stages again; of them only what they recorded comes, into the folder `records` of the store.
"""

import argparse
import os
import shlex
import shutil
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.gpu.parts import MIB

FILE = 16 * MIB
"""Bytes of a file that comes back, at most."""
FILES = 4
"""Of results; with the report, the log and one that is being replaced, at most eight, and less than 64 MiB together."""
KINDS = ("stages", "measures", "records")
"""Folders of a store that results come from and go to."""


LEFT = (".verified.json", "log.txt")
"""Of a stage's folder, what stays where it is."""


class Results:
    """Zip files in a folder, to which folders are added one by one: whoever takes the files at any time has whole ones.

    Args:
        out: the folder.
        limit: bytes of a file.
        files: how many there may be.
    """

    def __init__(self, out: Path, limit: int = FILE, files: int = FILES) -> None:
        self.out, self.limit, self.files = out, limit, files
        self.held: set[str] = set()
        for path in self._paths():
            path.unlink()

    def _paths(self) -> list[Path]:
        return sorted(self.out.glob("results-*.zip"))

    def add(self, folder: Path) -> bool:
        """Add a folder, `<kind>/<name>` of a store; False where no file has room for it."""
        name = f"{folder.parent.name}/{folder.name}"
        if name in self.held:
            return True
        paths = self._paths()
        last = paths[-1:] or [self.out / "results-0.zip"]
        for path in dict.fromkeys([*last, self.out / f"results-{len(paths)}.zip"]):
            if int(path.stem.partition("-")[2]) < self.files and self._append(path, folder, name):
                self.held.add(name)
                return True
        return False

    def _append(self, path: Path, folder: Path, name: str) -> bool:
        part = path.with_name(f"{path.name}.part")
        if path.exists():
            shutil.copyfile(path, part)
        with zipfile.ZipFile(part, "a", zipfile.ZIP_LZMA) as archive:
            for file in sorted(file for file in folder.rglob("*") if file.is_file() and file.name not in LEFT):
                archive.write(file, f"{name}/{file.relative_to(folder).as_posix()}")
        if part.stat().st_size > self.limit:
            part.unlink()
            return False
        os.replace(part, path)
        return True


def take_up(files: Iterable[Path], store: Path) -> tuple[list[str], list[str]]:
    """Take what came back into a store; what is there already stays.

    Returns:
        names of what was taken, and what was wrong, a line each.
    """
    taken, wrong = [], []
    for path in files:
        try:
            with zipfile.ZipFile(path) as archive:
                for name, members in _folders(archive):
                    if problem := _take(archive, name, members, store, taken):
                        wrong.append(f"{path}: {problem}")
        except (OSError, zipfile.BadZipFile) as error:
            wrong.append(f"{path}: no whole zip file ({error}); what other files hold was taken")
    return taken, wrong


def _folders(archive: zipfile.ZipFile) -> Iterator[tuple[str, list[str]]]:
    """Names of folders as `<kind>/<name>`, and their files."""
    folders: dict[str, list[str]] = {}
    for member in archive.namelist():
        kind, name, *rest = [*member.split("/"), ""][:3]
        # a path may not lead out of the folder
        if kind in KINDS and rest[0] and name not in ("", "..") and ".." not in member.split("/"):
            folders.setdefault(f"{kind}/{name}", []).append(member)
    yield from folders.items()


def _take(archive: zipfile.ZipFile, name: str, members: list[str], store: Path, taken: list[str]) -> str:
    """Extract one folder, and give it its name when it is whole; what is wrong with it, else nothing."""
    target = store / name
    if target.is_dir() and (not name.startswith("stages/") or not damage(target)):
        return ""
    part = target.with_name(f"{target.name}.coming")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for member in members:
            file = part / member[len(name) + 1 :]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(archive.read(member))
        problem = damage(part) if name.startswith("stages/") else ""
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        problem = str(error)
    except Exception as error:  # of a decompressor: each has its own
        problem = f"{type(error).__name__}: {error}"
    if problem:
        shutil.rmtree(part, ignore_errors=True)
        return f"{name}: {problem}; not taken"
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)
    taken.append(name)
    return ""


def damage(folder: Path) -> str:
    """What is wrong with the folder of a finished stage; nothing where every file is as it was written."""
    from rlm.stage_record import Damaged, read_record
    from rlm.stages.store import file_digest

    try:
        record = read_record(folder, needs=("files",))
    except Damaged as error:
        return str(error)
    for name, expected in record["files"].items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected["bytes"] or file_digest(file) != expected["sha256"]:
            return f"{name} is not as it was written"
    return ""


def main() -> int:
    """Take up, and say how to print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="+", metavar="OUT", help="folders that came back")
    parser.add_argument("--store", type=Path, default=Path("runs"), metavar="FOLDER")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="only for the commands that are printed")
    parser.add_argument("--jobs", type=Path, metavar="FILE", help="list of jobs (default: jobs.yaml beside this file)")
    options = parser.parse_args()
    files = [file for out in options.out for file in sorted(out.glob("results-*.zip"))]
    if not files:
        print(f"no results-*.zip in {', '.join(map(str, options.out))}", file=sys.stderr)
        return 2
    taken, wrong = take_up(files, options.store)
    for kind in KINDS:
        names = [name.partition("/")[2] for name in taken if name.startswith(f"{kind}/")]
        print(f"{kind}: {len(names)} taken{': ' + ', '.join(names) if kind != 'records' and names else ''}")
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    from benchmarks.gpu.jobs import JOBS, read_jobs

    print("\nthe tables:")
    for command in dict.fromkeys(job.command for job in read_jobs(options.jobs or JOBS) if job.table is not None):
        print("  " + shlex.join([*command, "--data", str(options.data or "DATA"), "--store", str(options.store)]))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
