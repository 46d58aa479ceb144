"""Everything that is run on a checkout: `python -m nox -s tests`, `python -m nox -l` for the rest."""

import os
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.error_on_missing_interpreters = True

STORE = Path("runs") / "quickstart"


def install(session: nox.Session, *what: str) -> None:
    """Installs this checkout (editable) with extras, or packages alone, at the tested versions."""
    # mlflow, transformers and torch hold thousands of modules that a session never imports.
    session.install("--no-compile", "-c", "constraints.txt", *what)


@nox.session
def quickstart(session: nox.Session) -> None:
    """All rows of REALM's Table 2 at tiny scale, on the built-in encyclopedia."""
    install(session, "-e", ".")
    table = "experiments/realm_table2.yaml"
    store = session.posargs or ["--store", str(STORE)]
    # Two small models train faster side by side, on a core each, than one after the other on two.
    jobs = ["--jobs", str(min(os.cpu_count() or 1, 4))]
    session.run("rlm", "run", table, "--scale", "tiny", "--seeds", "0", *jobs, *store, env={"HF_HUB_OFFLINE": "1"})
    shown = store[store.index("--store") + 1] if "--store" in store else "runs"
    print(f"\nCompare the runs in MLflow:  {Path(session.bin) / 'rlm'} ui --store {shown}\n")


@nox.session
def tests(session: nox.Session) -> None:
    """The tests; ends with pytest's summary."""
    install(session, "-e", ".[faiss-cpu,offline-encoder,test]")
    workers = str(min(os.cpu_count() or 1, 8))
    arguments = session.posargs or ["tests"]
    # One thread each: the workers share the cores. Tests start hundreds of processes, which import the same modules:
    # they are compiled once, whatever the machine's own setting is.
    env = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "MALLOC_MMAP_THRESHOLD_": "4294967296"}
    env["PYTHONDONTWRITEBYTECODE"] = ""
    session.run(
        *("python", "-m", "pytest", "-q", "-n", workers, "--dist", "loadfile", "--timeout", "400"), *arguments, env=env
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and the direction of imports."""
    install(session, "ruff", "import-linter")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", env={"PYTHONPATH": "."})


@nox.session
def types(session: nox.Session) -> None:
    """Static types."""
    install(session, "-e", ".[types]")
    session.run("mypy")


@nox.session
def end_to_end(session: nox.Session) -> None:
    """Whole tables through the command line, longer than the tests have time for."""
    install(session, "-e", ".[faiss-cpu,offline-encoder,test]")
    session.run("python", "-m", "pytest", "-q", "-n", "0", *(session.posargs or ["tests/end_to_end"]))


@nox.session
def faults(session: nox.Session) -> None:
    """Kills real runs at random moments, at least thirty times, and compares the tables."""
    install(session, "-e", ".[faiss-cpu,test]")
    session.run("python", "-m", "pytest", "-q", "-s", "-n", "0", *(session.posargs or ["tests/faults"]))


@nox.session
def rehearsal(session: nox.Session) -> None:
    """What is packed for a machine with a GPU, worked on and taken up again: killed in between, and compared."""
    install(session, "-e", ".[test]")
    session.run("python", "-m", "pytest", "-q", "-s", "-n", "0", *(session.posargs or ["tests/rehearsal"]))


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Every script in benchmarks/ (or those named), each of which prints a ratio measured in one run."""
    install(session, "-e", ".[faiss-cpu,offline-encoder]")
    scripts = session.posargs or sorted(map(str, Path("benchmarks").glob("*.py")))
    for script in scripts:
        session.run("python", script, env={"PYTHONPATH": "."})


@nox.session
def retro_speed(session: nox.Session) -> None:
    """RETRO's benchmarks against `retro-pytorch`, in an environment of its own (its autofaiss needs numpy 1)."""
    install(session, "-e", ".[faiss-cpu,offline-encoder]")
    peer = Path(session.create_tmp()) / "peer"
    session.run("python", "-m", "venv", str(peer))
    tested = [
        line for line in Path("constraints.txt").read_text().split() if line.startswith(("torch=", "transformers="))
    ]
    session.run(str(peer / "bin" / "pip"), "install", "retro-pytorch==0.3.9", "pyarrow<21", *tested, external=True)
    env = {"PYTHONPATH": "."}
    python = str((peer / "bin" / "python").absolute())
    session.run("python", "benchmarks/retro_step.py", "--peer", python, *session.posargs, env=env)
    session.run("python", "benchmarks/neighbours.py", "peer", "--peer", python, env=env)
