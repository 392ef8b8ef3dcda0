"""Write docs/reference/odd-wavs.md: the unusual and broken WAV files that wav2utf8 does not read as SoX does.

python tools/odd_wavs.py FOLDER > docs/reference/odd-wavs.md
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

import bytecodec

HEAD = """# Unusual WAV files

The results of `wav2utf8` for {count} odd, broken and hostile WAV files from the tests of other programs, at their own
sampling rate, compared with SoX 14.4. `python tools/odd_wavs.py FOLDER > docs/reference/odd-wavs.md` writes this page.
{equal} files are read as SoX reads them, sample for sample. The table lists the others. libsndfile supports more
formats than SoX does.

| wav2utf8 | SoX | files |
|---|---|---|"""


def main() -> None:
    """Print the page."""
    folder = Path(sys.argv[1])
    files: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".raw")):
        files[compare(path)].append(path.relative_to(folder).as_posix())
    count, equal = sum(map(len, files.values())), len(files.pop(("reads", "equal")))
    print(HEAD.format(count=count, equal=equal))
    for (result, comparison), names in sorted(files.items()):
        print(f"| {result} | {comparison} | {', '.join(names)} |")


def compare(path: Path) -> tuple[str, str]:
    """Return the results of wav2utf8 and of SoX for a file."""
    try:
        with path.open("rb") as file:  # given a name, soundfile would choose the format by the suffix
            rate = soundfile.SoundFile(file.fileno(), closefd=False).samplerate
    except soundfile.LibsndfileError:
        rate = 0
    rate = rate if 1000 <= rate <= 768000 else 11025
    command = [str(Path(sys.executable).with_name("wav2utf8")), "--rate", str(rate), str(path), "-"]
    done = subprocess.run(command, capture_output=True, check=False)
    expected = sox(path)
    if done.returncode:
        message = re.sub(rf"wav2utf8: {re.escape(str(path))}:? ", "", done.stderr.decode())
        reason = re.search(r"libsndfile: (.*?)\)", message) or re.match(r"(.*?)[.:] ", message)
        return f"rejects: {reason[1] if reason else message}", "reads" if len(expected) else "rejects"
    samples = np.frombuffer(bytecodec.decode(done.stdout.decode()), np.uint8).astype(int)
    if not len(expected):
        return "reads", "rejects"
    if len(expected) != len(samples):
        return f"reads {len(samples):,} samples", f"reads {len(expected):,} samples"
    difference = np.abs(samples - expected).max()
    return "reads", f"differs by at most {difference}" if difference else "equal"


def sox(path: Path) -> NDArray[np.int64]:
    """Return SoX's samples (n,) in 8-bit steps around 128, with averaged channels; (0,) if it rejects the file."""
    command = ["sox", "-V1", str(path), "-c", "1", "-t", "raw", "-e", "signed", "-b", "32", "-"]
    output = subprocess.run(command, capture_output=True, check=False).stdout
    samples = np.frombuffer(output[: len(output) // 4 * 4], "<i4")
    return np.asarray(np.clip(np.floor(samples / 2**24 + 0.5) + 128, 0, 255), np.int64)


if __name__ == "__main__":
    main()
