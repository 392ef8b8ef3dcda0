"""What a stranger's recording ends in, decoded in a process that can do little else."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bytecodec.errors import InputError

if TYPE_CHECKING:
    from charrnn.data.recordings import SoundOptions

SECONDS = 30  # that decoding may take; of the processor's time, too
MEMORY = 4 << 30  # bytes of address space, most of it libraries that are mapped and not used


def last_bytes(path: Path, options: SoundOptions, count: int) -> bytes:
    """The last ``count`` bytes, at most, of a recording or of a text that wav2utf8 made.

    The decoders of compressed formats are large and written in C, and somebody else chose what they read: they run in a
    process of their own, with little memory, little time and no right to write files.

    Parameters
    ----------
    path
        Of the file. Messages call it by its name, by whose ending it is read.
    options
        Options for the conversion of a recording to bytes.

    Raises
    ------
    InputError
        It is no recording, or takes too much time or memory; the sentence calls it by its name.
    """
    done = _decoded(path, options, count)
    error = done.stderr.decode("utf-8", "replace").strip() if done else ""
    if done and done.returncode == 0:
        return done.stdout
    if done and done.returncode == 1 and error.startswith("! "):
        raise InputError(error.removeprefix("! ").replace(f"{path.parent}{os.sep}", ""))
    raise InputError(f"{path.name} cannot be read here: it takes too much time or memory. A shorter part may do.")


def _decoded(path: Path, options: SoundOptions, count: int) -> subprocess.CompletedProcess[bytes] | None:
    # -P: the folder that this was started in, or the upload's, is no place to find modules in
    command = [sys.executable, "-P", "-m", __name__, str(path), json.dumps(asdict(options)), str(count)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    environment |= {"OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, env=environment, check=False
        )
    return None


def _confine() -> None:
    """Have the system end this process where it takes more than a recording should."""
    if os.name == "nt":
        return
    import resource

    os.nice(10)  # whoever listens meanwhile comes first
    limits = {resource.RLIMIT_CPU: SECONDS, resource.RLIMIT_AS: MEMORY, resource.RLIMIT_FSIZE: 0}
    for what, most in {**limits, resource.RLIMIT_CORE: 0}.items():
        resource.setrlimit(what, (most, most))


def main(path: str, options: str, count: str) -> int:
    """Write the last bytes to stdout, or a sentence to stderr; returns the exit code."""
    _confine()
    from charrnn.data.corpus import last_symbols
    from charrnn.data.recordings import SoundOptions
    from charrnn.data.vocab import Vocab

    try:
        how = SoundOptions(**json.loads(options))
        ids = last_symbols(Path(path), Vocab.of_alphabet("braille"), how, int(count))
    except InputError as error:
        print(f"! {error}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(ids.tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
