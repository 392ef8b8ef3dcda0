"""Convert strange recordings, and print the table of docs/formats.md.

    python tools/odd_wavs.py ../shared/audio/odd

Each file is read as by wav2utf8, at its own rate, and by SoX. If both give the same number of samples, the table has
the largest difference in steps of 8 bits.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

import bytecodec
from bytecodec.errors import InputError


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    print("\n".join(table(parser.parse_args().folder)))


def table(folder: Path) -> Iterator[str]:
    """Yield the lines of the table, in Markdown, for the recordings in a folder."""
    yield from ("| file | result | compared with SoX |", "|---|---|---|")
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".wav", ".raw")):
        result, comparison = row(path)
        yield f"| {path.relative_to(folder).as_posix()} | {result} | {comparison} |"


def row(path: Path) -> tuple[str, str]:
    """Return the result for a file, and its comparison with that of SoX."""
    said: list[str] = []
    try:
        with path.open("rb") as file:  # with a name, soundfile would choose the format by its ending
            rate = soundfile.SoundFile(file.fileno(), closefd=False).samplerate
    except soundfile.LibsndfileError:
        rate = 11025
    asked = rate if 1000 <= rate <= 768000 else 11025
    try:
        samples = np.concatenate(list(bytecodec.read_blocks(path, asked, on_message=said.append)))
    except InputError as error:
        return f"refused: {short(str(error), path)}", "refuses it too" if not len(of_sox(path)) else "reads it"
    found = [f"it {short(message, path).removesuffix('.')}" for message in said]
    words = "; ".join([f"{len(samples):,} samples at {asked:,} Hz", *found]) + "." * bool(found)
    theirs = of_sox(path)
    if not len(theirs):
        return words, "refuses it"
    if len(theirs) != len(samples):
        return words, f"{len(theirs):,} samples"
    return words, f"the same number, at most {np.abs(samples.astype(int) - theirs).max()} apart"


def short(sentence: str, path: Path) -> str:
    """Return a message without the name of the file, for a cell of a table."""
    return sentence.replace(f"{path} ", "").replace(str(path), path.name).replace("|", "\\|")


def of_sox(path: Path) -> NDArray[np.int64]:
    """Return SoX's samples (n,) in steps of 8 bits around 128, with averaged channels; (0,) if it rejects the file."""
    command = ["sox", "-V1", str(path), "-c", "1", "-t", "raw", "-e", "signed", "-b", "32", "-"]
    made = subprocess.run(command, capture_output=True, check=False).stdout
    samples = np.frombuffer(made[: len(made) // 4 * 4], "<i4")
    return np.asarray(np.clip(np.floor(samples / 2**24 + 0.5) + 128, 0, 255), np.int64)


if __name__ == "__main__":
    main()
