"""Delivery to a real SQLite MLflow store, read back with MLflow's own client and REST interface."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Run

from rlm.stage_record import Damaged, read_record
from rlm.tracking import SHARED, Tracker, delivery, run_tags, serve, spool, tracker, tracking_uri

TABLE = "REALM ablations"


def write_events(folder: Path, steps: range, value: float = 1.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "events.jsonl").open("a") as file:
        for step in steps:
            event = {"step": step, "time": 1000.0 + step, "metrics": {"loss": value / (step + 1), "recall@5": 50.0}}
            file.write(json.dumps(event) + "\n")


def write_record(folder: Path, **fields: object) -> None:
    record = {
        "config": {"pretrain": {"training": {"steps": 30}, "masking": {"kind": "salient_spans"}}, "note": "x" * 9000},
        "seed": 0,
        "seconds": 12.5,
        "git": {"commit": "abc", "dirty": False},
        "metrics": {"exact_match": 38.2, "recall@5": 38.5},
        **fields,
    }
    (folder / "stage.json").write_text(json.dumps(record))
    (folder / "predictions.jsonl").write_text('{"id": "q1", "prediction": "Paris"}\n')


def finish(store: Path, name: str, steps: range = range(30)) -> Path:
    folder = store / "stages" / name
    write_events(folder, steps)
    write_record(folder)
    return folder


def runs(store: Path, table: str = TABLE) -> list[Run]:
    client = MlflowClient(tracking_uri=f"sqlite:///{store.resolve()}/mlflow.db")
    experiment = client.get_experiment_by_name(table)
    return client.search_runs([experiment.experiment_id]) if experiment else []


def history(store: Path, run: Run, metric: str) -> list[tuple[int, float]]:
    client = MlflowClient(tracking_uri=f"sqlite:///{store.resolve()}/mlflow.db")
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, metric)]


@contextmanager
def serving(store: Path, port: int) -> Iterator[None]:
    """`serve` in another process, once it has printed its address."""
    code = "import sys; from pathlib import Path; from rlm.tracking import serve\n"
    code += "sys.exit(serve(Path(sys.argv[1]), port=int(sys.argv[2])))"
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-c", code, str(store), str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        assert f"http://127.0.0.1:{port}" in server.stdout.readline()
        yield
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait(30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one finished stage of one row and one shared stage, delivered."""
    store = tmp_path_factory.mktemp("store")
    tracker = Tracker(store, TABLE)
    pretrain = finish(store, "pretrain-aaaa", range(1200))
    tracker.deliver(pretrain, run_tags(TABLE, ["REALM"], ["nq_open"], 0), results=["predictions.jsonl"])
    tracker.deliver(finish(store, "corpus-bbbb"), run_tags(TABLE, ["REALM", "ORQA"], ["nq_open", "trec"], None))
    assert tracker.close()
    return store


def by_stage(store: Path) -> dict[str, Run]:
    return {run.data.tags["stage"]: run for run in runs(store)}


def test_deliver__writes_tags_params_metrics_and_artifacts(delivered: Path) -> None:
    found = by_stage(delivered)
    assert set(found) == {"pretrain", "corpus"}
    run = found["pretrain"]
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "pretrain - REALM"
    expected = {"table": TABLE, "row": "REALM", "rows": "REALM", "dataset": "nq_open", "seed": "0", "key": "aaaa"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.tags["git_commit"] == "abc"
    assert run.data.params["pretrain.training.steps"] == "30"
    assert run.data.params["pretrain.masking.kind"] == "salient_spans"
    assert len(run.data.params["note"]) == 6000
    assert run.data.metrics["exact_match"] == 38.2
    assert run.data.metrics["seconds"] == 12.5
    # More than MLflow takes in one batch, every step once.
    assert [step for step, _ in history(delivered, run, "loss")] == list(range(1200))
    artifacts = MlflowClient(tracking_uri=f"sqlite:///{delivered}/mlflow.db").list_artifacts(run.info.run_id)
    assert {a.path for a in artifacts} == {"stage.json", "predictions.jsonl", "events.jsonl"}


def test_deliver__names_all_rows_when_they_share_a_stage(delivered: Path) -> None:
    tags = by_stage(delivered)["corpus"].data.tags
    assert tags["row"] == SHARED and tags["rows"] == "REALM, ORQA" and tags["dataset"] == SHARED


def test_deliver__imports_no_mlflow_when_all_is_delivered(delivered: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from rlm.tracking import Tracker, run_tags\n"
        f"t = Tracker(Path({str(delivered)!r}), {TABLE!r})\n"
        f"t.deliver(t.store / 'stages' / 'pretrain-aaaa', run_tags({TABLE!r}, ['REALM'], ['nq_open'], 0))\n"
        "assert t.close() and 'mlflow' not in sys.modules, 'mlflow was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_deliver__updates_tags_when_another_row_joins(tmp_path: Path) -> None:
    folder = finish(tmp_path, "ict-cccc")
    for rows in (["REALM"], ["REALM", "ORQA"]):
        tracker = Tracker(tmp_path, TABLE)
        tracker.deliver(folder, run_tags(TABLE, rows, ["nq_open"], 1))
        assert tracker.close()
    (run,) = runs(tmp_path)
    assert run.data.tags["row"] == SHARED and run.data.tags["rows"] == "REALM, ORQA"
    assert run.info.status == "FINISHED"
    assert len(history(tmp_path, run, "loss")) == 30


def test_deliver__continues_its_run_when_a_stage_is_interrupted_and_resumed(tmp_path: Path) -> None:
    running = tmp_path / "stages" / "pretrain-dddd.tmp"
    tags = run_tags(TABLE, ["REALM"], ["nq_open"], 0)
    write_events(running, range(20))
    first = Tracker(tmp_path, TABLE)
    first.deliver(running, tags)
    first.close()
    (run,) = runs(tmp_path)
    assert run.info.status == "KILLED" and len(history(tmp_path, run, "loss")) == 20

    # A torn line, then the steps after the last checkpoint once more.
    with (running / "events.jsonl").open("a") as file:
        file.write('{"step": 20, "ti\n')
    write_events(running, range(10, 30))
    second = Tracker(tmp_path, TABLE)
    second.deliver(running, tags)
    wait_for(lambda: runs(tmp_path)[0].info.status == "RUNNING")
    write_record(running)
    running.rename(running.with_suffix(""))
    second.deliver(running.with_suffix(""), tags)
    assert second.close()
    (again,) = runs(tmp_path)
    assert again.info.run_id == run.info.run_id and again.info.status == "FINISHED"
    assert [step for step, _ in history(tmp_path, again, "loss")] == list(range(30))


def test_deliver__shows_metrics_while_the_stage_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "LOOK_EVERY", 0.2)
    running = tmp_path / "stages" / "pretrain-eeee.tmp"
    current = Tracker(tmp_path, TABLE)
    current.deliver(running, run_tags(TABLE, ["REALM"], ["nq_open"], 0))  # before the stage made its folder
    for until in (5, 10):
        write_events(running, range(until - 5, until))
        wait_for(lambda n=until: [len(history(tmp_path, r, "loss")) for r in runs(tmp_path)] == [n])
    assert runs(tmp_path)[0].info.status == "RUNNING"
    current.deliver(running, run_tags(TABLE, ["REALM"], ["nq_open"], 0), failed=True)
    current.close()
    assert runs(tmp_path)[0].info.status == "FAILED"


def test_deliver__keeps_orders_for_later_when_the_server_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, port = finish(tmp_path, "evaluate-ffff"), free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = Tracker(tmp_path, TABLE)
    start = time.monotonic()
    away.deliver(folder, run_tags(TABLE, ["REALM"], ["nq_open"], 0), results=["predictions.jsonl"])
    assert time.monotonic() - start < 1, "deliver waited for the server"
    wait_for(lambda: any("is away" in message for message in caplog.messages))
    assert not away.close(timeout=30)
    assert len([message for message in caplog.messages if "is away" in message]) == 1, "one warning is enough"

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with serving(elsewhere, port):
        later = Tracker(tmp_path, "another table")  # starts with what is pending
        assert later.close()
    (run,) = runs(elsewhere)
    assert run.info.status == "FINISHED" and len(history(elsewhere, run, "loss")) == 30
    assert len(list((elsewhere / "mlartifacts").rglob("predictions.jsonl"))) == 1
    assert not list(tmp_path.glob("mlflow.db"))


def test_deliver__logs_once_when_two_processes_deliver(tmp_path: Path) -> None:
    names = [f"ict-{i:04d}" for i in range(4)]
    for name in names:
        finish(tmp_path, name, range(300))
    code = (
        "from pathlib import Path; from rlm.tracking import Tracker, run_tags\n"
        f"t = Tracker(Path({str(tmp_path)!r}), {TABLE!r})\n"
        f"for name in {names!r}:\n"
        f"    t.deliver(t.store / 'stages' / name, run_tags({TABLE!r}, ['REALM'], ['nq_open'], 0))\n"
        "t.close()"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    found = runs(tmp_path)
    assert sorted(run.data.tags["key"] for run in found) == ["0000", "0001", "0002", "0003"]
    assert {run.info.status for run in found} == {"FINISHED"}
    for run in found:
        assert [step for step, _ in history(tmp_path, run, "loss")] == list(range(300))
    assert not Tracker(tmp_path, TABLE).pending()


def test_deliver__finds_its_run_when_it_was_killed_after_creating_it(tmp_path: Path) -> None:
    folder = finish(tmp_path, "ict-9999")
    tags = run_tags(TABLE, ["REALM"], ["nq_open"], 0)
    first = Tracker(tmp_path, TABLE)
    first.deliver(folder, tags)
    assert first.close()
    for state in (tmp_path / "spool").glob("*.state"):
        state.unlink()
    second = Tracker(tmp_path, TABLE)
    second.deliver(folder, tags)
    assert second.close()
    (run,) = runs(tmp_path)
    assert len(history(tmp_path, run, "loss")) == 30
    assert len(history(tmp_path, run, "exact_match")) == 1


def test_deliver__makes_the_database_again_when_it_was_killed_while_its_tables_were_made(tmp_path: Path) -> None:
    folder, tags = finish(tmp_path, "ict-9999"), run_tags(TABLE, ["REALM"], ["nq_open"], 0)
    code = (
        "from pathlib import Path; from rlm.tracking import Tracker\n"
        f"tracker = Tracker(Path({str(tmp_path)!r}), {TABLE!r})\n"
        f"tracker.deliver(Path({str(folder)!r}), {tags!r})\n"
        "tracker.close()"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    made = tmp_path / "mlflow.db", tmp_path / "mlflow.db.part"
    while not any(path.exists() and path.stat().st_size > 60_000 for path in made):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    tracker = Tracker(tmp_path, TABLE)
    tracker.deliver(folder, tags)
    assert tracker.close()
    assert [run.info.status for run in runs(tmp_path)] == ["FINISHED"]


def test_deliver__goes_on_with_the_others_when_one_record_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, whole = finish(tmp_path, "ict-0001"), finish(tmp_path, "ict-0002")
    (broken / "stage.json").write_text("{")
    tracker = Tracker(tmp_path, TABLE)
    for folder in (broken, whole):
        tracker.deliver(folder, run_tags(TABLE, ["REALM"], ["nq_open"], 0))
    assert not tracker.close()
    assert {r.data.tags["key"]: r.info.status for r in runs(tmp_path)} == {"0001": "RUNNING", "0002": "FINISHED"}
    assert any("refuses the run of 0001" in message for message in caplog.messages)


def delivered_store(store: Path, names: Sequence[str] = ("ict-0001", "ict-0002")) -> None:
    """Finished stages, told to MLflow."""
    tracker = Tracker(store, TABLE)
    for name in names:
        folder = store / "stages" / name
        tracker.deliver(folder if folder.exists() else finish(store, name), TAGS)
    assert tracker.close()


def told_again(store: Path) -> Tracker:
    """What `rlm run` does when all is cached."""
    tracker = Tracker(store, TABLE)
    for folder in sorted((store / "stages").iterdir()):
        tracker.deliver(folder, TAGS)
    return tracker


def client_of(store: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{store.resolve()}/mlflow.db")


TAGS = run_tags(TABLE, ["REALM"], ["nq_open"], 0)
SPOILS: dict[str, Callable[[Path], object]] = {
    "removed": lambda store: (store / "mlflow.db").unlink(),
    "not a database": lambda store: (store / "mlflow.db").write_bytes(b"what an editor left " * 999),
    "empty": lambda store: (store / "mlflow.db").write_bytes(b""),
    "truncated": lambda store: os.truncate(store / "mlflow.db", (store / "mlflow.db").stat().st_size // 2),
    "put back from a backup": lambda store: shutil.copy(store / "backup.db", store / "mlflow.db"),
    "spool removed": lambda store: shutil.rmtree(store / "spool"),
    "artifacts removed": lambda store: shutil.rmtree(store / "mlartifacts"),
    "a run deleted": lambda store: client_of(store).delete_run(runs(store)[0].info.run_id),
    "its experiment deleted": lambda store: client_of(store).delete_experiment(runs(store)[0].info.experiment_id),
    "states damaged": lambda store: [path.write_text('{"run_id": 5}') for path in (store / "spool").glob("*.state")],
    "orders damaged": lambda store: [path.write_text("[1, 2]") for path in (store / "spool").glob("*.json")],
}


@pytest.mark.parametrize("spoiled", SPOILS)
def test_deliver__makes_the_view_again_when_it_is(tmp_path: Path, spoiled: str) -> None:
    """Every finished stage once, with all its steps."""
    delivered_store(tmp_path, ["ict-0001"])
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "backup.db")
    delivered_store(tmp_path)
    SPOILS[spoiled](tmp_path)
    assert told_again(tmp_path).close()
    found = runs(tmp_path)
    assert sorted((run.data.tags["key"], run.info.status) for run in found) == [
        ("0001", "FINISHED"),
        ("0002", "FINISHED"),
    ]
    for run in found:
        assert [step for step, _ in history(tmp_path, run, "loss")] == list(range(30))
        assert len(history(tmp_path, run, "exact_match")) == 1
        assert (tmp_path / "mlartifacts" / run.info.run_id / "artifacts" / "stage.json").is_file()
    assert not told_again(tmp_path).pending()


def test_deliver__tells_a_stage_again_when_a_backup_shows_it_as_it_was(tmp_path: Path) -> None:
    folder = finish(tmp_path, "ict-0001", range(10))
    delivered_store(tmp_path, ["ict-0001"])
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "backup.db")
    write_events(folder, range(10, 30))
    write_record(folder, metrics={"exact_match": 50.0})
    os.utime(folder / "stage.json", ns=(2 * 10**18, 2 * 10**18))
    delivered_store(tmp_path, ["ict-0001"])
    shutil.copy(tmp_path / "backup.db", tmp_path / "mlflow.db")
    assert told_again(tmp_path).close()
    (run,) = runs(tmp_path)
    assert run.info.end_time == 2 * 10**12 and run.data.metrics["exact_match"] == 50.0
    assert [step for step, _ in history(tmp_path, run, "loss")] == list(range(30))


def test_serve__makes_the_view_again_before_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    delivered_store(tmp_path)
    (tmp_path / "mlflow.db").unlink()
    environments = []

    def started(command: list[str], **options: dict) -> object:
        environments.append((command, options["env"]))
        raise OSError("no server in this test")

    monkeypatch.setattr("rlm.tracking.server.subprocess.Popen", started)
    with pytest.raises(OSError, match="no server"):
        serve(tmp_path, port=free_port())
    assert "Delivering what waits" in capsys.readouterr().out
    assert sorted(run.info.status for run in runs(tmp_path)) == ["FINISHED", "FINISHED"]
    ((command, environment),) = environments
    assert not [word for word in command if "sqlite" in word], (
        "everybody sees a command; an address may hold a password"
    )
    assert environment["MLFLOW_BACKEND_STORE_URI"] == tracking_uri(tmp_path)


def test_deliver__keeps_a_damaged_database_and_says_where(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    delivered_store(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    assert told_again(tmp_path).close()
    aside = tmp_path / "mlflow.db.damaged"
    assert aside.read_bytes() == b"no database" * 100
    assert [str(aside) in message for message in caplog.messages] == [True]


def test_deliver__puts_a_database_aside_when_its_damage_shows_late(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pages that a look at its runs does not read."""
    delivered_store(tmp_path, ["ict-0001"])
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'metrics'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    with (tmp_path / "mlflow.db").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    finish(tmp_path, "ict-0002")
    assert not told_again(tmp_path).close()
    assert any("database is damaged" in message for message in caplog.messages)
    assert told_again(tmp_path).close()
    assert sorted(run.data.tags["key"] for run in runs(tmp_path)) == ["0001", "0002"]


def test_deliver__starts_no_thread_when_the_database_shows_all(tmp_path: Path) -> None:
    delivered_store(tmp_path)
    assert told_again(tmp_path)._thread is None


def test_deliver__tells_a_server_again_when_another_is_at_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that we cannot look behind, as that of any server: MLflow's client tells what it shows."""
    address = f"sqlite:///{tmp_path}/mlflow.db?timeout=20"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    (tmp_path / "mlflow.db").touch()
    delivered_store(tmp_path)
    shown = [run.info.run_id for run in runs(tmp_path)]
    assert told_again(tmp_path).close()
    assert [run.info.run_id for run in runs(tmp_path)] == shown, "one that is the same is told nothing"
    client_of(tmp_path).delete_run(shown[0])
    assert told_again(tmp_path).close()
    found = {run.data.tags["key"]: run for run in runs(tmp_path)}
    assert (
        sorted(found) == ["0001", "0002"]
        and len(runs(tmp_path)) == 2
        and shown[0] not in {run.info.run_id for run in found.values()}
    )
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    for run in found.values():
        assert len(history(tmp_path, run, "loss")) == 30


def test_deliver__finishes_the_run_when_the_stage_ends_while_it_is_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = tmp_path / "stages" / "ict-0001.tmp"
    write_events(running, range(30))
    deliver = tracker.Delivery.deliver

    def end_meanwhile(delivery: object, order: Path, closing: bool) -> None:
        deliver(delivery, order, closing)  # type: ignore[arg-type]
        if running.exists():
            write_record(running)
            running.rename(running.with_suffix(""))

    monkeypatch.setattr(tracker.Delivery, "deliver", end_meanwhile)
    current = Tracker(tmp_path, TABLE)
    current.deliver(running, TAGS)
    wait_for(lambda: not running.exists())
    time.sleep(0.2)
    assert current.close()
    assert [run.info.status for run in runs(tmp_path)] == ["FINISHED"]


PASSWORDS = ["hunter2secret", "hunter2/se@cret", "hunter2:%2Fsecret", "hunter2@secret", "hun ter2secret"]


@pytest.mark.parametrize("password", PASSWORDS)
def test_deliver__names_the_server_but_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd, password: str
) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:{password}@127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = Tracker(tmp_path, TABLE)
    away.deliver(finish(tmp_path, "ict-0001"), {**TAGS, "rows": f"see ftp://ann:{password.split()[0]}@host"})
    wait_for(lambda: any("is away" in message for message in caplog.messages))
    assert not away.close(timeout=30)
    assert serve(tmp_path) == 0
    out, err = capfd.readouterr()
    said = "\n".join([*caplog.messages, out, err])
    assert f"http://127.0.0.1:{port}" in out and f"127.0.0.1:{port}" in caplog.text
    stored = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    for text in (said, *stored):
        for form in (password, quote(password, safe=""), password.replace("%", "%25"), "secret"):
            assert form not in text


def test_tracking_uri__writes_a_password_as_addresses_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for uri, written in {
        "http://ann:hun/t@er@host:9/x": "http://ann:hun%2Ft%40er@host:9/x",
        "mysql+pymysql://ann:a:b?c@host/db": "mysql+pymysql://ann:a%3Ab%3Fc@host/db",
        "postgresql://ann:hun%40ter@host/db": "postgresql://ann:hun%40ter@host/db",
        "https://ann:hunter@host/a@b": "https://ann:hunter@host/a@b",
        "http://host:5000/a@b": "http://host:5000/a@b",
        "sqlite:////home/ann@x:y@z/mlflow.db": "sqlite:////home/ann@x:y@z/mlflow.db",
        "databricks": "databricks",
    }.items():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert tracking_uri(tmp_path) == written


# Values that JSON may hold where another was written.
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_pending__is_told_whatever_the_spool_holds(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        store = Path(folder)
        tracker = Tracker(store, TABLE)
        finish(store, "ict-0001", range(1))
        order = tracker._order_path("ict-0001")
        right = {"folder": "ict-0001", "experiment": TABLE, "tags": TAGS, "failed": False, "results": []}
        state = {"run_id": "ab", "tags": TAGS, "offset": 0, "steps": {"loss": 1}, "ended": "FINISHED", "final": 5}
        for path, written in ((order, right), (spool.state_path(order), state)):
            damaged = {**written, **data.draw(st.dictionaries(st.sampled_from(sorted(written)), ANYTHING, max_size=2))}
            text = data.draw(st.one_of(st.just(json.dumps(damaged)), ANYTHING.map(json.dumps), st.text(max_size=20)))
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
        assert isinstance(tracker.pending(), list)
        assert tracker._is_open(order) in (True, False)


@given(
    lines=st.lists(ANYTHING.map(json.dumps) | st.text(max_size=20), max_size=4),
    record=st.dictionaries(st.sampled_from(["config", "metrics", "seconds", "git", "seed"]), ANYTHING),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_events_and_flatten__give_what_can_be_told_whatever_a_stage_holds(lines: list[str], record: dict) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass"))
        for offset, event in delivery._events(path, 0):
            assert offset > 0 and all(float(value) is not None for value in event["metrics"].values())
        (Path(folder) / "stage.json").write_text(json.dumps(record))
        try:
            found = read_record(Path(folder), needs=())
        except Damaged:
            return
        assert all(name and isinstance(value, str) for name, value in delivery.flatten(found.get("config") or {}))


def test_tracking_uri__is_the_environments_when_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_uri(tmp_path) == "http://tracking:5000"


@pytest.mark.parametrize(("host", "port", "expected"), [("0.0.0.0", 5000, "loopback"), ("127.0.0.1", 99999, "--port")])
def test_serve__refuses_when_it_cannot_be_served_safely(tmp_path: Path, host: str, port: int, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        serve(tmp_path, host, port)


def test_serve__refuses_when_there_is_no_store_or_the_port_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rlm run TABLE --store"):
        serve(tmp_path / "nothing")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ValueError, match="choose another"):
        serve(tmp_path, port=taken.getsockname()[1])


def ask(address: str, path: str, body: dict[str, object] | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"{address}{path}", data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_serve__answers_over_rest_by_row_and_seed(delivered: Path) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with serving(delivered, port):
        experiments = ask(address, "/api/2.0/mlflow/experiments/search", {"max_results": 10})["experiments"]
        ids = [e["experiment_id"] for e in experiments if e["name"] == TABLE]
        query = {"experiment_ids": ids, "filter": "tags.row = 'REALM' and tags.seed = '0'"}
        (run,) = ask(address, "/api/2.0/mlflow/runs/search", query)["runs"]
        assert {m["key"]: m["value"] for m in run["data"]["metrics"]}["exact_match"] == 38.2
        other = {"experiment_ids": ids, "filter": "tags.row = 'REALM' and tags.seed = '1'"}
        assert "runs" not in ask(address, "/api/2.0/mlflow/runs/search", other)
        path = f"/get-artifact?path=predictions.jsonl&run_uuid={run['info']['run_id']}"
        assert ask(address, path) == {"id": "q1", "prediction": "Paris"}
        # Loopback only: nothing listens on this machine's other addresses.
        listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
        hosts = {row.split()[1].split(":")[0] for row in listening if row.split()[1].endswith(f":{port:04X}")}
        assert "0100007F" in hosts and "00000000" not in hosts
