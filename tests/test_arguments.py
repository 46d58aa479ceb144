import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm import arguments

LONG = "9" * 5000


@pytest.mark.parametrize(
    ("read", "argument", "found"),
    [
        (arguments.text, "", ""),
        (arguments.text, "é\n", "é\n"),
        (arguments.names, "A, B,", ("A", "B")),
        (arguments.seeds, "0, 7", (0, 7)),
        (arguments.seeds, "-1", (-1,)),
        (arguments.whole(1, 9), "9", 9),
        (arguments.seed, "4294967295", 4294967295),
        (arguments.number, "1e-3", 1e-3),
        (arguments.path, "a/b", Path("a/b")),
        (arguments.folder, "absent", Path("absent")),
    ],
)
def test_types__when_an_argument_is_right(read: Callable[[str], Any], argument: str, found: Any) -> None:
    assert read(argument) == found


@pytest.mark.parametrize(
    ("read", "argument", "message"),
    [
        (arguments.text, "caf\udce9", "found `caf\\udce9`; not UTF-8"),
        (arguments.words, " ", "write some text"),
        (arguments.name, "", "write a name"),
        (arguments.name, "a\0", "it holds the character U+0000"),
        (arguments.names, " , ", "write names joined by commas"),
        (arguments.seeds, "0,²", "found `0,²`; write whole numbers joined by commas, such as 0,1,2"),
        (arguments.seeds, "1_0", "write whole numbers joined by commas"),
        (arguments.seeds, LONG, "write whole numbers joined by commas"),
        (arguments.whole(1, 9), "0", "found `0`; write a whole number, 1 or more"),
        (arguments.whole(1, 9), "10", "found `10`; write a whole number from 1 to 9"),
        (arguments.whole(1, 9), "٣", "write a whole number, 1 or more"),
        (arguments.whole(1, 9), LONG, "write a whole number, 1 or more"),
        (arguments.seed, "4294967296", "write a whole number from 0 to 4294967295"),
        (arguments.number, "x", "found `x`; write a number"),
        (arguments.path, "", "write the path of a file or a folder"),
        (arguments.path, "a\0b", "write the path of a file or a folder"),
        (arguments.path, "x" * 256, "no file has so long a name"),
        (arguments.path, "x/" * 3000, "no file has so long a name"),
        (arguments.file, "results/", "found `results/`; a folder; name a file in it"),
        (arguments.folder, __file__, "a file; write the path of a folder"),
    ],
)
def test_types__when_an_argument_is_wrong(read: Callable[[str], Any], argument: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as raised:
        read(argument)
    assert message in str(raised.value)
    assert len(str(raised.value)) < 300


def test_text__when_python_takes_the_terminal_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the C locale, bytes beyond ASCII come as stand-ins, although they were UTF-8."""
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("ascii", "surrogateescape"))
    assert arguments.text("caf\udcc3\udca9") == "café"
