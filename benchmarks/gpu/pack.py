"""Packs what the jobs need into parts: `python -m benchmarks.gpu.pack --data DATA --out FOLDER [--store runs]`.

In the order in which they are needed: results that the store has (of tasks that are done), packages that may be
missing, then for each job the files of its data that it reads, its checkpoints in bfloat16, and finished stages of the
store that take longer to compute than to carry. Data files travel byte for byte, so that stages have the keys that they
have here.
"""

import argparse
import importlib.metadata
import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.jobs import JOBS, ROOT, Job, finished, read_jobs, reads, tasks
from benchmarks.gpu.merge import Results
from benchmarks.gpu.parts import MIB, PART, Packed, write_parts
from rlm.data.pretrained import PACKAGED, locate
from rlm.errors import ConfigError
from rlm.stage_record import read_record
from rlm.stages.cost import git_state
from rlm.stages.store import stage_folder

CARRIED = ("corpus", "documents", "salient_spans")
"""Stages that a GPU does not speed up."""
SECONDS_PER_MIB = 2.0
"""Of a core, that such a stage must have taken at least for each MiB on disk: 81,000 passages take 0.9, their salient
spans 3.5."""
WHEELS = Path(__file__).with_name("wheels.txt")
PLATFORMS = [
    word for n in ("2_28", "2_17", "2014") for word in ("--platform", f"manylinux{'_' * ('_' in n)}{n}_x86_64")
]


def main() -> int:
    """Pack, and print what the parts hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="as `rlm run` takes it")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the parts go")
    parser.add_argument("--store", type=Path, metavar="FOLDER", help="whose results and stages are carried")
    parser.add_argument("--jobs", type=Path, default=JOBS, metavar="FILE")
    parser.add_argument("--wheels", type=Path, default=WHEELS, metavar="FILE", help="names of packages, one a line")
    parser.add_argument("--part", type=float, default=PART / MIB, metavar="MIB", help="of a part, at most (60)")
    options = parser.parse_args()
    start = time.perf_counter()
    try:
        files, needs = packed(options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    manifest = write_parts(files, options.out, int(options.part * MIB), needs=needs, commit=git_state()["commit"])
    print("| part | MiB | holds |\n|---|--:|---|")
    for number, part in enumerate(manifest["parts"]):
        inside: dict[str, float] = {}
        for file in manifest["files"]:
            size = sum(size for at, _, size in file["pieces"] if at == number)
            if size:
                inside[file["what"]] = inside.get(file["what"], 0) + size / MIB
        listed = ", ".join(f"{what} ({size:.1f})" for what, size in inside.items())
        print(f"| {part['name']} | {part['bytes'] / MIB:.1f} | {listed} |")
    print(f"\n{sum(part['bytes'] for part in manifest['parts']) / MIB:.1f} MiB in {options.out}, packed in", end=" ")
    print(f"{time.perf_counter() - start:.0f} s; each part with {options.out}/manifest.json is one transfer")
    return 0


def packed(options: argparse.Namespace) -> tuple[list[Packed], dict[str, list[str]]]:
    """The files, each once, in the order in which they are needed, and those without which each job cannot start."""
    jobs = read_jobs(options.jobs)
    options.out.mkdir(parents=True, exist_ok=True)
    files = {file.path: file for file in _results(jobs, options)}
    wheels = list(_wheels(options.wheels, options.out))
    needs = {}
    for job in jobs:
        needed = [*wheels, *_of_job(job, options)]
        needs[job.name] = [file.path for file in needed]
        stages = _stages(job, options) if options.store is not None else ()
        for file in (*needed, *stages):
            files.setdefault(file.path, file)
    return list(files.values()), needs


def _results(jobs: list[Job], options: argparse.Namespace) -> Iterator[Packed]:
    """What is done already, so that it is not done again."""
    if options.store is None:
        return
    folder = options.out / "results"
    folder.mkdir(exist_ok=True)
    results = Results(folder, files=sys.maxsize)
    for job in jobs:
        for task in tasks(job, options.data):
            if not task.done(options.store):
                continue
            if job.measure:
                results.add(options.store / "measures" / job.name)
            for stage in [] if job.measure else task.leaves:
                results.add(stage_folder(options.store, stage))
    for path in sorted(folder.glob("results-*.zip")):
        yield Packed(f"results/{path.name}", path, "finished results")


def _wheels(listed: Path, out: Path) -> Iterator[Packed]:
    """Packages as wheels for CPython 3.12 on x86-64, as pip finds them."""
    names = [line for line in listed.read_text().split("\n") if line and not line.startswith("#")]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    wanted = [f"{name}=={pins.get(name) or importlib.metadata.version(name)}" for name in names]
    folder = out / "wheels"
    if wanted and len(list(folder.glob("*.whl"))) != len(wanted):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--python-version", "3.12", "--implementation", "cp", *PLATFORMS, "-d", str(folder), *wanted]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            print(f"no wheels are packed, the other machine must have {', '.join(names)}: {reason}", file=sys.stderr)
            return
    for path in sorted(folder.glob("*.whl")):
        yield Packed(f"wheels/{path.name}", path, "packages")


def _of_job(job: Job, options: argparse.Namespace) -> Iterator[Packed]:
    """What a job reads."""
    found = reads(job, options.data)
    for path in found.files:
        yield Packed(f"data/{path.relative_to(options.data).as_posix()}", path, "data")
    for name, weights in found.checkpoints.items():
        yield from _checkpoint(name, weights, options.out)


def _checkpoint(name: str, weights: bool, out: Path) -> Iterator[Packed]:
    """The package that brings a checkpoint along, with its weights in bfloat16."""
    package, inside = PACKAGED[name]
    source = Path(locate(name))
    empty = out / "empty"
    empty.touch()
    yield Packed(f"packages/{package}/__init__.py", empty, name)
    for path in sorted(source.iterdir()):
        if path.suffix == ".json" or path.name == "vocab.txt":
            yield Packed(f"packages/{package}/{inside}/{path.name}", path, name)
    if weights:
        path = out / f"{package}.safetensors"
        path.write_bytes(rounded(source / "model.safetensors"))
        yield Packed(f"packages/{package}/{inside}/model.safetensors", path, name, way="halves")


def rounded(weights: Path) -> bytes:
    """A safetensors file with its numbers in bfloat16."""
    import torch
    from safetensors.torch import load_file, save

    tensors = {name: t.to(torch.bfloat16) if t.is_floating_point() else t for name, t in load_file(weights).items()}
    data: bytes = save(tensors, metadata={"format": "pt"})
    return data


def _stages(job: Job, options: argparse.Namespace) -> Iterator[Packed]:
    """Finished stages of the store that are worth their bytes: a zip file each, as results come back."""
    for task in tasks(job, options.data):
        for stage in () if task.done(options.store) else task.stages.values():
            if stage.name not in CARRIED or not finished(stage, options.store):
                continue
            folder, out = stage_folder(options.store, stage), options.out / "stages" / stage.folder
            record = read_record(folder, needs=("core_seconds", "disk_bytes"))
            if record["core_seconds"] < SECONDS_PER_MIB * record["disk_bytes"] / MIB:
                continue
            if not (out / "results-0.zip").is_file():
                out.mkdir(parents=True, exist_ok=True)
                Results(out, limit=sys.maxsize).add(folder)
            yield Packed(f"results/{stage.folder}.zip", out / "results-0.zip", "finished stages")


if __name__ == "__main__":
    raise SystemExit(main())
