"""Number of threads for the compiled kernel."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator

MAX_THREADS = 8  # a layer has some 40 tiles to share, and more threads spend more time at barriers
RETRY = 5.0  # least number of seconds until a slower number of threads is measured again
RETRY_RATIO = 20.0  # least multiple, for the same, of the time that the last measurement took


class ThreadAutotuner:
    """The number of threads that has been the fastest recently.

    Several threads synchronise many times per symbol. If another process takes a core from one of them, all of them
    wait, and a single thread is faster. It is also faster for networks with few units. If ``threads`` is
    not 0, it is the only candidate.
    """

    def __init__(self, threads: int) -> None:
        numbers = [threads] if threads else candidates()
        self._due = dict.fromkeys(numbers, -math.inf)  # time from which it is measured again, even if it was slower
        self._seconds = dict.fromkeys(numbers, math.inf)  # per symbol

    @contextlib.contextmanager
    def measure(self, symbols: int) -> Iterator[int]:
        """Measure the time of a block of symbols; the value is the number of threads to use."""
        began = time.monotonic()
        due = [number for number, at in self._due.items() if at <= began]
        number = due[0] if due else min(self._seconds, key=self._seconds.__getitem__)
        yield number
        ended, before = time.monotonic(), self._seconds[number]
        seconds = (ended - began) / symbols
        self._seconds[number] = seconds if due else (3 * before + seconds) / 4
        if before < math.inf:  # the first block fills caches, so a second one is measured
            self._due[number] = ended + max(RETRY, RETRY_RATIO * (ended - began))


def candidates() -> list[int]:
    """Return the numbers of threads to measure: one per core, half as many, and so on down to one."""
    largest = min(_cores(), MAX_THREADS)
    return [largest >> halved for halved in range(largest.bit_length())]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
