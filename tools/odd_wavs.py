"""Say what becomes of strange recordings: the table of docs/formats.md.

    python tools/odd_wavs.py ../shared/audio/odd

Each file goes through wav2utf8's way at its own rate. SoX says how many samples it makes of the file, and where the two
agree in number they are held against each other, in steps of 8 bits.
"""

from __future__ import annotations

import argparse
import subprocess
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
    folder = parser.parse_args().folder
    print("| file | what it becomes | beside SoX |\n|---|---|---|")
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".wav", ".raw")):
        words, beside = row(path)
        print(f"| {path.relative_to(folder).as_posix()} | {words} | {beside} |")


def row(path: Path) -> tuple[str, str]:
    """What becomes of a file, and how that stands beside what SoX makes of it."""
    said: list[str] = []
    try:
        with path.open("rb") as file:  # by its number: of a name, soundfile would judge by the ending
            rate = soundfile.SoundFile(file.fileno(), closefd=False).samplerate
    except soundfile.LibsndfileError:
        rate = 11025
    asked = rate if 1000 <= rate <= 768000 else 11025
    try:
        samples = np.concatenate(list(bytecodec.read_blocks(path, asked, tell=said.append)))
    except InputError as error:
        return f"refused: {short(str(error), path)}", "refuses it too" if not len(of_sox(path)) else "reads it"
    words = f"{len(samples):,} samples at {asked:,} Hz" + "".join(f"; it {short(word, path)}" for word in said)
    theirs = of_sox(path)
    if not len(theirs):
        return words, "refuses it"
    if len(theirs) != len(samples):
        return words, f"{len(theirs):,} samples"
    return words, f"the same number, at most {np.abs(samples.astype(int) - theirs).max()} apart"


def short(sentence: str, path: Path) -> str:
    """A sentence without the name of the file, in one cell of a table."""
    return sentence.replace(f"{path} ", "").replace(str(path), path.name).replace("|", "\\|")


def of_sox(path: Path) -> NDArray[np.int64]:
    """What SoX makes of a file in steps of 8 bits around 128, its channels averaged; (0,) where it refuses it."""
    command = ["sox", "-V1", str(path), "-c", "1", "-t", "raw", "-e", "signed", "-b", "32", "-"]
    made = subprocess.run(command, capture_output=True, check=False).stdout
    samples = np.frombuffer(made[: len(made) // 4 * 4], "<i4")
    return np.asarray(np.clip(np.floor(samples / 2**24 + 0.5) + 128, 0, 255), np.int64)


if __name__ == "__main__":
    main()
