"""Patterns that cannot be compiled, that never end, and what they cost those that do."""

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import warnings

import pytest

from rlm.answer_patterns import FLAGS, SECONDS, OutOfTime, Pattern, UnusablePattern, limited, usable_patterns

ENDLESS, TEXT = "(a+)+$", "a" * 60 + "b"


def test_pattern__is_compiled_with_the_released_flags():
    assert FLAGS == re.IGNORECASE | re.UNICODE | re.MULTILINE
    assert Pattern("^é$").matches("É\nor so")
    assert not Pattern("so").matches("É\nor so") and Pattern("^OR").is_in("É\nor so")
    assert Pattern("o.").spans("or\nso or") == [(0, 2), (4, 6), (6, 8)]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("(a", "missing )"),
        ("*5", "nothing to repeat"),
        ("a{99999999999999999999}", "repetition number is too large"),
        ("a{" + "9" * 5000 + "}", "thousands of digits"),
        ("(" * 5000 + "a" + ")" * 5000, "nested too deeply"),
        ("(?a)b", "flags are incompatible"),
        ("(?L)b", "cannot use 'L' flag"),
        ("(?<=a*)b", "fixed-width"),
        ("(?P<1>a)", "bad character in group name"),
        ("\\", "bad escape"),
        ("[z-a]", "bad character range"),
    ],
)
def test_pattern__that_cannot_be_compiled_matches_nothing_and_says_why(text: str, fault: str):
    pattern = Pattern(text)
    assert pattern.fault is not None and fault in pattern.fault and "sys." not in pattern.fault
    assert not pattern.matches(text) and not pattern.is_in(text) and pattern.spans(text) == []


def test_pattern__that_may_be_meant_otherwise_is_compiled_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Pattern("[[a]").matches("[")


@pytest.mark.parametrize("blank", ["", " "])
def test_pattern__may_be_blank(blank: str):
    assert Pattern(blank).matches(" x")


@pytest.mark.parametrize("way", ["matches", "is_in", "spans"])
def test_pattern__that_never_ends_is_stopped_told_once_and_not_tried_again(way: str):
    pattern = Pattern(f"{ENDLESS}|{way}")  # each its own: what was told is not told again
    start = time.thread_time()
    with pytest.warns(UnusablePattern, match=r"ran for more than 1 s") as caught:
        assert not getattr(pattern, way)(TEXT)
        assert SECONDS / 2 < time.thread_time() - start < 3 * SECONDS
        start = time.thread_time()
        assert not any(getattr(pattern, way)(TEXT) for _ in range(100))
    assert time.thread_time() - start < SECONDS / 2
    assert len(caught) == 1


def test_pattern__that_ran_out_of_time_in_a_passage_still_matches_predictions():
    pattern = Pattern(f"{ENDLESS}|other")
    with pytest.warns(UnusablePattern):
        assert not pattern.is_in(TEXT)
    assert pattern.matches("aaa")


def test_limited__leaves_many_short_calls_alone():
    start = time.thread_time()
    while time.thread_time() - start < 2 * SECONDS:
        assert limited(pow, 2, 3) == 8


def test_limited__costs_little():
    expression, text = re.compile("(five|six) feet", FLAGS), "a passage of some words about this and that " * 15

    def seconds(call) -> float:
        start = time.thread_time()
        for _ in range(2000):
            call()
        return time.thread_time() - start

    plain = min(seconds(lambda: expression.search(text)) for _ in range(5))
    guarded = min(seconds(lambda: limited(expression.search, text)) for _ in range(5))
    assert guarded < 1.5 * plain  # measured: 1.05


def test_limited__has_no_limit_in_another_thread_and_does_not_stop_the_main_one():
    found = []
    thread = threading.Thread(target=lambda: found.append(limited(_spin, 1.7 * SECONDS)))
    thread.start()
    _spin(0.5 * SECONDS)
    thread.join()
    assert found == ["done"]


def _spin(seconds: float) -> str:
    start = time.thread_time()
    while time.thread_time() - start < seconds:
        sum(range(10_000))  # what is counted is the time outside the kernel
    return "done"


def test_limited__stops_in_a_child_that_was_forked_while_the_clock_ran():
    limited(pow, 2, 3)
    child = os.fork()
    if child == 0:
        try:
            limited(re.compile(ENDLESS).match, TEXT)
        except OutOfTime:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_limited__sends_no_signal_once_nothing_is_matched():
    limited(pow, 2, 3)
    _spin(SECONDS)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_a_process_that_has_matched_ends_as_others_do():
    code = (
        "import atexit, time\nfrom rlm.answer_patterns import Pattern\n"
        "class Slow:\n    def __del__(self):\n        start = time.thread_time()\n"
        "        while time.thread_time() - start < 1: sum(range(10_000))\n"
        "import sys; sys.slow = Slow()\nassert Pattern('a').matches('a')\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_patterns__are_pickled():
    (pattern,) = usable_patterns(["a+"])
    assert pickle.loads(pickle.dumps(pattern)).spans("baa") == [(1, 3)]


def test_usable_patterns__tell_once_of_each_that_is_none():
    with pytest.warns(UnusablePattern, match=r"answer pattern '\(once' matches nothing") as caught:
        for _ in range(2):
            assert [pattern.text for pattern in usable_patterns(["(once", "b"])] == ["b"]
    assert len(caught) == 1
