"""Decoding of uploaded recordings in a process with limited rights."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bytecodec.errors import InputError

if TYPE_CHECKING:
    from charrnn.data.recordings import SoundOptions

TIMEOUT = 30  # seconds of wall-clock time, and of processor time
POLL = 0.1  # seconds between two checks whether the server is being stopped
MEMORY = 4 << 30  # bytes of address space, most of it mapped libraries
ERROR_MARK = "! "  # before a message for the user on stderr


def last_bytes(path: Path, options: SoundOptions, count: int, is_stopping: Callable[[], bool] = lambda: False) -> bytes:
    """Return the last ``count`` bytes, at most, of a recording or of a text that wav2utf8 made.

    The decoders of compressed formats are large C libraries, and the input is not trusted. They run in a process of
    their own, with limited memory and time and without the right to write files. Raise InputError if the file is not a
    recording, decoding it exceeds the limits, or ``is_stopping`` returns true meanwhile.
    """
    # -P: modules are not searched for in the current folder, which may contain files of other users
    command = [sys.executable, "-P", "-m", __name__, str(path), json.dumps(asdict(options)), str(count)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "utf-8"}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    end = time.monotonic() + TIMEOUT
    # In a session of its own, so that Ctrl-C in a terminal does not end it with a misleading error.
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    ) as process:
        while time.monotonic() < end and not is_stopping():
            with contextlib.suppress(subprocess.TimeoutExpired):
                output, errors = process.communicate(timeout=POLL)
                break
        else:
            process.kill()
            output, errors = process.communicate()
    if process.returncode == 0:
        return output
    if is_stopping():
        raise InputError(f"{path.name} was not read, because the server is being stopped.")
    error = errors.decode("utf-8", "replace").strip() if process.returncode == 1 else ""
    if error.startswith(ERROR_MARK):
        raise InputError(error.removeprefix(ERROR_MARK).replace(f"{path.parent}{os.sep}", ""))
    raise InputError(f"{path.name} cannot be read: it needs too much time or memory. Use a shorter part.")


def _set_limits() -> None:
    """Make the system end this process if it exceeds the limits."""
    if os.name == "nt":
        return
    import resource

    os.nice(10)  # sampling for other listeners comes first
    limits = {resource.RLIMIT_CPU: TIMEOUT, resource.RLIMIT_AS: MEMORY}
    for kind, limit in {**limits, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}.items():
        resource.setrlimit(kind, (limit, limit))


def main(path: str, options: str, count: str) -> int:
    """Write the last bytes to stdout, or a message to stderr; return the exit code."""
    _set_limits()
    from charrnn.data.corpus import last_symbols
    from charrnn.data.recordings import SoundOptions
    from charrnn.data.vocab import Vocab

    try:
        sound = SoundOptions(**json.loads(options))
        ids = last_symbols(Path(path), Vocab.of_alphabet("braille"), sound, int(count))
    except InputError as error:
        print(f"{ERROR_MARK}{error}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(ids.tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
