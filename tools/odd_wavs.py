"""Write docs/reference/odd-wavs.md, the table of unusual and broken WAV files: what wav2utf8 does, compared with SoX.

python tools/odd_wavs.py FOLDER > docs/reference/odd-wavs.md
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

import bytecodec

HEAD = """# Unusual WAV files

The results of `wav2utf8` for odd, broken and hostile WAV files from the tests of other programs, at their own sampling
rate, compared with SoX. `python tools/odd_wavs.py FOLDER > docs/reference/odd-wavs.md` writes this page. SoX rejects
some files that are read here because libsndfile supports more formats.

| file | result | compared with SoX |
|---|---|---|"""


def main() -> None:
    """Print the page."""
    folder = Path(sys.argv[1])
    print(HEAD)
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".raw")):
        print(f"| {path.relative_to(folder).as_posix()} | {' | '.join(cells(path))} |")


def cells(path: Path) -> tuple[str, str]:
    """Return the result for a file and the comparison with SoX."""
    try:
        with path.open("rb") as file:  # given a name, soundfile would choose the format by the suffix
            rate = soundfile.SoundFile(file.fileno(), closefd=False).samplerate
    except soundfile.LibsndfileError:
        rate = 0
    rate = rate if 1000 <= rate <= 768000 else 11025
    command = [str(Path(sys.executable).with_name("wav2utf8")), "--rate", str(rate), str(path), "-"]
    done = subprocess.run(command, capture_output=True, check=False)
    messages = done.stderr.decode().replace("wav2utf8: ", "").replace(f"{path} ", "").replace(str(path), path.name)
    result = "; ".join(messages.replace("|", "\\|").splitlines())
    expected = sox(path)
    if done.returncode:
        return f"rejected: {result}", "also rejects it" if not len(expected) else "reads it"
    samples = np.frombuffer(bytecodec.decode(done.stdout.decode()), np.uint8).astype(int)
    result = "; ".join(filter(None, [f"{len(samples):,} samples at {rate:,} Hz", result]))
    if not len(expected):
        return result, "rejects it"
    if len(expected) != len(samples):
        return result, f"{len(expected):,} samples"
    difference = np.abs(samples - expected).max()
    return result, f"differs by at most {difference}" if difference else "equal"


def sox(path: Path) -> NDArray[np.int64]:
    """Return SoX's samples (n,) in 8-bit steps around 128, with averaged channels; (0,) if it rejects the file."""
    command = ["sox", "-V1", str(path), "-c", "1", "-t", "raw", "-e", "signed", "-b", "32", "-"]
    output = subprocess.run(command, capture_output=True, check=False).stdout
    samples = np.frombuffer(output[: len(output) // 4 * 4], "<i4")
    return np.asarray(np.clip(np.floor(samples / 2**24 + 0.5) + 128, 0, 255), np.int64)


if __name__ == "__main__":
    main()
