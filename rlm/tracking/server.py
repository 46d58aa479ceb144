"""MLflow's own user interface on a store's database."""

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from rlm.errors import StageError
from rlm.secrets import without_secrets
from rlm.tracking.tracker import Tracker, tracking_uri
from rlm.tracking.view import ARTIFACTS


def serve(store: Path, host: str = "127.0.0.1", port: int = 5000, wait: float = 120.0) -> int:
    """Show a store's runs until interrupted; prints the address when it answers.

    Args:
        store: the store's folder.
        host: a loopback address; MLflow asks nobody for a password.
        port: TCP port.
        wait: seconds until the server must answer.

    Returns:
        the server's exit status; 0 after an interrupt.

    Raises:
        ValueError: not a loopback address, the port is taken, or there is no store.
        StageError: the server does not answer.
    """
    uri = tracking_uri(store)
    if uri.startswith(("http://", "https://")):
        print(f"MLFLOW_TRACKING_URI names a server that is already running: {without_secrets(uri)}")
        return 0
    _check(store, host, port)
    tracker = Tracker(store, experiment="")
    if tracker.pending():
        print("Delivering what waits in the spool ...", flush=True)
    tracker.close()
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--artifacts-destination", (store.resolve() / ARTIFACTS).as_uri()]
    command += ["--host", host, "--port", str(port)]
    server = subprocess.Popen(
        command,
        cwd=store,
        # Everybody can read the words of a command; an address may hold a password.
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_BACKEND_STORE_URI": uri},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches us alone; the server's own processes are ended together.
    )
    threading.Thread(target=_repeat, args=(server,), daemon=True).start()
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        _wait_until_up(server, address, wait)
        print(f"MLflow shows {store} at {address}  (Ctrl-C ends it)", flush=True)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)
        _end(server)


def _repeat(server: "subprocess.Popen[bytes]") -> None:
    """The server's own words."""
    assert server.stderr is not None
    for line in server.stderr:
        print(without_secrets(line.decode(errors="replace")), end="", file=sys.stderr, flush=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _check(store: Path, host: str, port: int) -> None:
    if not store.is_dir():
        raise ValueError(f"--store {store}: there is no such folder; `rlm run TABLE --store {store}` makes it")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(
            f"--host {host}: only loopback addresses (127.0.0.1, ::1, localhost), for MLflow asks nobody for a"
            " password; from elsewhere use `ssh -L 5000:127.0.0.1:5000`"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ValueError(f"--port {port}: cannot be used ({error}); choose another, e.g. --port 5001") from None


def _wait_until_up(server: "subprocess.Popen[bytes]", address: str, wait: float) -> None:
    end = time.monotonic() + wait
    while time.monotonic() < end:
        if server.poll() is not None:
            raise StageError(f"MLflow's server ended with status {server.returncode}; its own words are above")
        try:
            with urlopen(f"{address}/health", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise StageError(f"MLflow's server does not answer at {address} after {wait:.0f} s")


def _end(server: "subprocess.Popen[bytes]") -> None:
    """End the server and its workers."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            break
        try:
            server.wait(10)
            break
        except subprocess.TimeoutExpired:
            continue
