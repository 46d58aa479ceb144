import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = "from rlm.output import flush_output, take_any_output\nimport sys\ntake_any_output()\n"
SHOW = "print('\\xb1 \\u2020')\nprint('\\xe9', file=sys.stderr)\nsys.exit(int(flush_output() is not None) + 3)"


def _python(code: str, **options: object) -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, **{"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, **options.pop("env", {})}  # type: ignore[dict-item]
    return subprocess.run([sys.executable, "-c", CODE + code], env=environment, **{"timeout": 60, **options})  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("environment", "out", "err"),
    [
        ({"PYTHONIOENCODING": "utf-8"}, "± †\n".encode(), "é\n".encode()),
        ({"PYTHONIOENCODING": "latin-1"}, b"\xb1 ?\n", b"\xe9\n"),
        ({"LC_ALL": "C"}, b"? ?\n", b"\\xe9\n"),
    ],
)
def test_output__when_it_cannot_show_a_character(environment: dict[str, str], out: bytes, err: bytes) -> None:
    done = _python(SHOW, env=environment, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, out, err)


def test_output__when_nobody_reads_it() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = _python("print('x' * 100_000, flush=True)\n" + SHOW, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (done.returncode, b"Error" in done.stderr) == (3, False)


def test_output__when_it_is_closed() -> None:
    for closed in ([1], [2], [1, 2]):
        done = _python(SHOW, preexec_fn=lambda closed=closed: [os.close(number) for number in closed])
        assert done.returncode == 3


def test_output__when_its_disk_is_full() -> None:
    with Path("/dev/full").open("w") as full:
        done = _python(SHOW, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, b"Exception ignored" in done.stderr) == (4, False)
