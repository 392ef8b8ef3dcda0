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

WAIT = 0.1  # seconds between two checks whether the program was interrupted, while nothing is played


class LiveControl:
    """Stream of a network that starts, stops and changes as messages say.

    Parameters
    ----------
    task
        Task of one stream, which was restarted.
    read_start
        Function that returns the symbols (P,) at the end of a recording, or raises InputError.
    """

    def __init__(self, task: SymbolSampling, read_start: Callable[[str], NDArray[np.integer[Any]]]) -> None:
        self._task, self._read_start = task, read_start
        self._changed = threading.Condition()
        self._is_playing = True
        self._changes: dict[str, Any] = {}  # temperature, seed and prime since the last piece

    def handle(self, name: str, value: Any) -> None:
        """Handle a message of `charrnn.sampling.osc.receive`, in any thread."""
        with self._changed:
            if name in ("play", "stop"):
                self._is_playing = name == "play"
            else:
                self._changes[name] = value
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
                    self._changed.wait(WAIT)

    def _apply(self, changes: dict[str, Any]) -> None:
        """Set the temperature; start again if there is a new seed or a recording to start from."""
        temperature, seed = changes.get("temperature"), changes.get("seed")
        if temperature is not None:
            self._task.temperature = float(temperature)
        if "prime" in changes:
            try:
                self._task.start = self._read_start(changes["prime"])
            except (InputError, OSError) as error:
                log(f"/prime has no effect: {error}")
                del changes["prime"]
        if changes.keys() & {"seed", "prime"}:
            self._task.restart(self._task.temperature, seed)
