"""Control of endless sampling while it is played."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.console import log
from bytecodec.errors import InputError
from charrnn.sampling.playback import Player
from charrnn.sampling.task import Pieces, SymbolSampling

POLL = 0.1  # seconds between two checks whether the program was interrupted, while nothing is played


class LiveControl:
    """Stream of a network that messages start, stop and change.

    Parameters
    ----------
    task
        Task with one stream, on which `restart` was called.
    read_start
        Function that returns the symbols (P,) at the end of a recording, or raises InputError.
    """

    def __init__(self, task: SymbolSampling, read_start: Callable[[str], NDArray[np.integer[Any]]]) -> None:
        self._task, self._read_start = task, read_start
        self._changed = threading.Condition()
        self._is_playing = True
        self._changes: dict[str, Any] = {}  # temperature, seed and start since the last piece
        self._next_recording: str | None = None  # to read
        self._is_reading = False

    def handle(self, name: str, value: Any) -> None:
        """Handle a message of `charrnn.sampling.osc.receive`, in any thread."""
        with self._changed:
            if name in ("play", "stop"):
                self._is_playing = name == "play"
            elif name == "prime":
                self._next_recording = value
                if not self._is_reading:
                    self._is_reading = True
                    threading.Thread(target=self._read_starts, name="prime", daemon=True).start()
            else:
                self._changes[name] = value
            self._changed.notify()

    def _read_starts(self) -> None:
        """Read the newest recording that was named, until there is none; playback continues meanwhile."""
        while True:
            with self._changed:
                file, self._next_recording = self._next_recording, None
                self._is_reading = file is not None
            if file is None:
                return
            try:
                start = self._read_start(file)
            except (InputError, OSError) as error:
                log(f"the OSC message /prime has no effect: {error}")
                continue
            with self._changed:
                self._changes["start"] = start
                self._changed.notify()

    def pieces(self, player: Player, is_interrupted: Callable[[], bool]) -> Pieces:
        """Yield pieces as `SymbolSampling.pieces` does, as one segment, until the program is interrupted."""
        while not is_interrupted():
            with self._changed:
                changes, self._changes = self._changes, {}
                is_playing = self._is_playing
            self._apply(changes)
            if is_playing:
                yield from self._task.pieces(1, self._task.chunk)
                continue
            player.pause()
            with self._changed:
                while not (self._is_playing or self._changes or is_interrupted()):
                    self._changed.wait(POLL)

    def _apply(self, changes: dict[str, Any]) -> None:
        """Set the temperature; start again if there is a new seed or a recording to start from."""
        if "temperature" in changes:
            self._task.temperature = float(changes["temperature"])
        if "start" in changes:
            self._task.start = changes["start"]
        if changes.keys() & {"seed", "start"}:
            self._task.restart(self._task.temperature, changes.get("seed"))
