"""Checks done one after another in a process of their own, which may break, die or hang: the next ones get another.

One process does many checks, as starting takes seconds. What breaks in CUDA spoils all that the process would do after
it, so a process is given up after that; what is merely wrong costs nothing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bytecodec.errors import InputError

LIMIT = 60.0  # seconds of a check
START = 60.0  # seconds until a process is ready
GRACE = 15.0  # seconds that a check may go on when the time of all of them is over
COST = 2  # processes that checks of one kind may use up before the rest of it is left out; hanging counts as two

Row = dict[str, Any]
Outcome = dict[str, Any] | tuple[str, bool]  # figures by their units; or what was found, and whether that is right
UNSAID = ("lowest ", "highest ")  # figures that only the JSON has


@dataclass(frozen=True)
class Check:
    """One thing to find out.

    Attributes
    ----------
    kind
        What it stands and falls with.
    limit
        Seconds that it may take.
    fresh
        Whether it wants a process in which nothing else was done.
    about
        What its row has, besides.
    """

    name: str
    work: Callable[[], Outcome]
    kind: str = ""
    limit: float = LIMIT
    fresh: bool = False
    about: Row = field(default_factory=dict)


def load(source: str, rehearse: bool) -> list[Check]:
    """The checks that a function, MODULE:FUNCTION, has."""
    module, _, function = source.partition(":")
    checks: list[Check] = getattr(importlib.import_module(module), function)(rehearse)
    return checks


# -- in the process ------------------------------------------------


def serve(connection: Any, source: str, rehearse: bool) -> None:
    """Do the checks that one is asked for by name, until nobody asks."""
    os.setsid()  # a group of its own, which ends with all that checks started; a Ctrl-C is not for it
    os.dup2(2, 1)  # whatever checks print is no part of the table
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    checks = {check.name: check for check in load(source, rehearse)}
    connection.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            connection.send(outcome(checks[connection.recv()]))


def outcome(check: Check) -> Row:
    """What came of a check."""
    try:
        found = check.work()
    except InputError as error:  # such as a way that takes no such number of streams
        return {"result": f"refused: {error}"}
    except Exception as error:  # whatever it is, the others are worth having
        return broken(error)
    if isinstance(found, dict):
        return {"result": words(found), "figures": found}
    return {"result": found[0], "ok": found[1]}


def broken(error: Exception) -> Row:
    """The row of what raised an error; spent: whether this process can be used no more."""
    traceback.print_exc(file=sys.stderr)
    kind, said = type(error).__name__, str(error).strip()
    if kind == "OutOfMemoryError":  # torch's, which is no fault; but what lies around may be in the others' way
        return {"result": "out of memory", "spent": True}
    spent = isinstance(error, RuntimeError) or "CUDA" in said
    result = f"broke: {kind}: {said.partition(chr(10))[0]}"
    return {"result": result, "ok": False, "spent": spent, "traceback": traceback.format_exc()}


def words(figures: Row) -> str:
    """Figures as the table has them."""
    said = {unit: value for unit, value in figures.items() if not unit.startswith(UNSAID)}
    return ", ".join(f"{v:,.3g} {k}" if isinstance(v, int | float) else f"{k} {v}" for k, v in said.items())


# -- outside ------------------------------------------------


class Worker:
    """A process that does checks."""

    def __init__(self, source: str, rehearse: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, source, rehearse), daemon=True)
        self._process.start()
        assert self._process.pid
        self._pid, self._idle = self._process.pid, False
        theirs.close()

    def hear(self, until: float) -> Row | None:
        """What it says before some time of `time.monotonic`; None: nothing."""
        try:
            if not self._connection.poll(max(0.0, until - time.monotonic())):
                return None
            heard = self._connection.recv()
        except (EOFError, OSError):
            return {"result": f"broke: the process {self._end()}", "ok": False, "spent": True}
        row: Row = heard if isinstance(heard, dict) else {}
        self._idle = not row.get("spent")
        return row

    def ask(self, name: str) -> None:
        """Have it do a check."""
        self._idle = False
        with contextlib.suppress(OSError):  # it is dead, as will be heard
            self._connection.send(name)

    def end(self, tell: bool = False) -> None:
        """End it and all that it started, at once unless it does nothing; tell: it says on stderr where it was."""
        if tell:
            self._signal(os.kill, signal.SIGUSR1)
            time.sleep(0.2)
        self._connection.close()
        if self._idle:
            self._process.join(3)
        self._signal(os.killpg, signal.SIGKILL)
        self._process.kill()
        self._process.join(5)  # a driver can keep it for longer

    def _signal(self, send: Callable[[int, int], None], number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            send(self._pid, number)

    def _end(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        return f"was ended by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"


class Workshop:
    """Does checks in one process after another.

    Parameters
    ----------
    source, rehearse
        Where the checks are from: see `load`.
    minutes
        After which none begins.
    """

    def __init__(self, source: str, rehearse: bool, minutes: float) -> None:
        self._of, self._began = (source, rehearse), time.monotonic()
        self._last = self._began + 60 * minutes
        self._worker: Worker | None = None
        self._cost: Counter[str] = Counter()

    def run(self, checks: Sequence[Check]) -> Generator[Row]:
        """Row by row what came of them."""
        try:
            for check in checks:
                began = time.monotonic()
                print(f"{began - self._began:5.0f} s  {check.name}", file=sys.stderr, end=": ", flush=True)
                row = self._row(check)
                print(row["result"], file=sys.stderr, flush=True)
                yield {"check": check.name, **row, **check.about, "seconds": round(time.monotonic() - began, 2)}
        finally:
            self._give_up()

    def _row(self, check: Check) -> Row:
        if time.monotonic() > self._last:
            return {"result": "left out: no time"}
        if self._cost[check.kind] >= COST:
            return {"result": f"left out: the {check.kind} broke before"}
        if check.fresh:
            self._give_up()
        if self._worker is None:
            self._worker = Worker(*self._of)
            row = self._heard("the start of a process", START)
            if row:
                return row  # no fault of this check
        self._worker.ask(check.name)
        had = self._worker
        row = self._heard("it", check.limit)
        if had is not self._worker and check.kind and "ok" in row:
            self._cost[check.kind] += COST if row.get("hung") else 1
        return row

    def _heard(self, what: str, limit: float) -> Row:
        """What the process says within its limit and a little more than the time of all; it is given up where that was
        the last that it said, or nothing."""
        assert self._worker
        now = time.monotonic()
        until = min(now + limit, self._last + GRACE)
        row = self._worker.hear(until)
        if row is None:
            self._give_up(tell=True)
            return {"result": f"broke: {what} took more than {until - now:.3g} s", "ok": False, "hung": True}
        if row.pop("spent", False):
            self._give_up()
        return row

    def _give_up(self, tell: bool = False) -> None:
        if self._worker:
            self._worker.end(tell)
            self._worker = None
