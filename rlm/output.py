"""Standard output and standard error that take whatever is printed, wherever they lead to (imports nothing heavy)."""

import io
import os
import sys
from typing import Any


class _Pipe(io.FileIO):
    """An output that nobody may read any longer: the rest of it is lost, and the work goes on."""

    def write(self, data: Any) -> int:
        """All of it is taken."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def take_any_output() -> None:
    """Characters that an output cannot show, or a reader that went away, do not change how a command ends."""
    for name, errors in (("stdout", "replace"), ("stderr", "backslashreplace")):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started the command
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__"):
            raw = io.BufferedWriter(_Pipe(stream.fileno(), "w", closefd=False))
            settings = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
            setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, errors, **settings))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def flush_output() -> str | None:
    """Write out what is buffered; why that failed, such as a full disk, and None where it did not."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would fail once more at its end.
        return f"standard output: {error.strerror}"
    return None
