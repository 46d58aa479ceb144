"""Regular expressions as answers: the released ORQA evaluation's flags, and a limit of time."""

import atexit
import functools
import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from rlm.errors import quoted

FLAGS = re.IGNORECASE | re.UNICODE | re.MULTILINE
SECONDS = 1.0
"""Of processor time that compiling a pattern, or matching it with one text, may take."""

Found = TypeVar("Found")


class UnusablePattern(UserWarning):
    """An answer pattern that matches nothing, though its question may have others."""


class Pattern:
    """An answer pattern, compiled with `FLAGS`.

    One that is no regular expression matches nothing. One that ran out of time is not tried again in the same way: it
    matches from the start of no text, say, but may still be found in one.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.fault: str | None = None
        """Why it is no regular expression that can be used."""
        self.slow: set[str] = set()
        """Ways of matching that ran out of time."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._expression = limited(re.compile, text, FLAGS)
        except Exception as error:  # re.error, and what nesting, repetitions, flags and numbers make it raise
            self.fault = _why(error)

    def matches(self, text: str) -> bool:
        """Whether it matches from the start of a text."""
        return self._try("match", lambda: self._expression.match(text) is not None) or False

    def is_in(self, text: str) -> bool:
        """Whether a text holds a match."""
        return self._try("search", lambda: self._expression.search(text) is not None) or False

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Start and end of its matches in a text, in characters."""
        return self._try("find all", lambda: [match.span() for match in self._expression.finditer(text)]) or []

    def _try(self, way: str, match: Callable[[], Found]) -> Found | None:
        if self.fault is not None or way in self.slow:
            return None
        try:
            return limited(match)
        except (OutOfTime, MemoryError, RecursionError) as error:
            self.slow.add(way)
            _tell(self.text, _why(error))
            return None


@functools.cache
def answer_pattern(text: str) -> Pattern:
    """A pattern as answers are written."""
    return Pattern(text)


def usable_patterns(answers: Iterable[str]) -> list[Pattern]:
    """Those of a question's patterns that are regular expressions; a warning tells once of each that is none."""
    patterns = [answer_pattern(answer) for answer in answers]
    for pattern in patterns:
        if pattern.fault is not None:
            _tell(pattern.text, f"it is no regular expression that can be used ({pattern.fault})")
    return [pattern for pattern in patterns if pattern.fault is None]


@functools.cache
def _tell(pattern: str, why: str) -> None:
    """Cached, hence said once however many predictions and passages it is tried on."""
    warnings.warn(f"answer pattern {quoted(pattern)} matches nothing: {why}", UnusablePattern, stacklevel=4)


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, OutOfTime):
        return f"it ran for more than {SECONDS:g} s; write it without repetitions of repetitions"
    if isinstance(error, (re.error, OverflowError)) or "flag" in str(error):
        return str(error)
    return "a number of thousands of digits" if isinstance(error, ValueError) else type(error).__name__


class OutOfTime(Exception):
    """What `limited` called took too long."""


class _Watch:
    """Looks a few times a second at what runs; nothing is timed by itself, so that short calls cost next to nothing."""

    tick = SECONDS / 4

    def __init__(self) -> None:
        self.running = 0
        """Number of the call that runs, 0 for none."""
        self.calls = 0
        self.ticking = False
        self._seen = (0, 0.0)

    def start(self) -> None:
        signal.signal(signal.SIGVTALRM, self._look)
        self._go_on()

    def _go_on(self) -> None:
        self.ticking = True
        signal.setitimer(signal.ITIMER_VIRTUAL, self.tick)

    def stop(self) -> None:
        if self.ticking:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def forget(self) -> None:
        self.ticking, self.running = False, 0

    def _look(self, number: int, frame: Any) -> None:
        self.ticking = False
        now = time.thread_time()
        if not self.running:
            return  # until the next call: no signal is sent where nothing is matched
        if self.running != self._seen[0]:
            self._seen = (self.running, now)
        elif now - self._seen[1] > SECONDS - self.tick:
            self.running = 0
            raise OutOfTime
        self._go_on()


_watch = _Watch()
os.register_at_fork(after_in_child=_watch.forget)  # its timer is not inherited
atexit.register(_watch.stop)  # the signal would end a process that no longer handles it


def limited(call: Callable[..., Found], *arguments: Any) -> Found:
    """What a call to Python's regular expressions returns, within `SECONDS` of processor time, about.

    Only the main thread is told of signals, which stop it: in another thread there is no limit.

    Raises:
        OutOfTime: it takes longer.
    """
    if threading.current_thread() is not threading.main_thread():
        return call(*arguments)
    if not _watch.ticking:
        _watch.start()
    _watch.calls += 1
    _watch.running = _watch.calls
    try:
        return call(*arguments)
    finally:
        _watch.running = 0
