"""Measure charrnn-plot, charrnn-report and charrnn-video on made-up runs: python tools/bench/bench_show.py.

Prints seconds from start to end, processor seconds of all that was started, and the largest memory of one process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bytecodec import WavWriter
from charrnn.storage.csv_log import LOG_COLUMNS, VAL_COLUMNS

RATE = 11025
CHECKPOINTS, SECONDS, TEMPERATURES = 50, 10, (0.8, 1.0)
FILM_CHECKPOINTS = "200000,300000,400000,newest"  # in two temperatures each: 82 s of sound
WALL = ["--width", "16383", "--height", "1080"]
LOAD = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def main() -> None:
    """Make the inputs, then measure one command after the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = make_run(folder / "run", 500_000)
        make_log(folder / "long.csv", 5_000_000)
        print("| what | seconds | processor seconds | memory, MB | |\n|---|---|---|---|---|")
        picture = [str(folder / "wall.png"), *WALL]
        measure("plot, 500,000 rows", "plot", [str(run / "log.csv"), "-o", *picture])
        measure("plot, 500,000 rows, median", "plot", [str(run / "log.csv"), "--average", "median", "-o", *picture])
        measure("plot, 5,000,000 rows", "plot", [str(folder / "long.csv"), "-o", *picture])
        page, film = folder / "report.html", folder / "film.mp4"
        measure("report, 50 checkpoints", "report", [str(run), "-o", str(page)], page)
        measure("video, 95 s", "video", [str(run), "--checkpoints", FILM_CHECKPOINTS, "-o", str(film), "-q"], film)
        opened(page)


def measure(what: str, command: str, arguments: list[str], made: Path | None = None) -> None:
    """Run a command and print a row."""
    began, before = time.perf_counter(), os.times()
    process = subprocess.Popen(
        [sys.executable, "-m", f"charrnn.commands.{command}", *arguments], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, what
    seconds, after = time.perf_counter() - began, os.times()
    busy = sum(after[2:4]) - sum(before[2:4])
    size = f"{made.stat().st_size / 1e6:.1f} MB" if made else ""
    print(f"| {what} | {seconds:.1f} | {busy:.1f} | {usage.ru_maxrss / 1e3:,.0f} | {size} |", flush=True)


def opened(page: Path) -> None:
    """How long a browser takes to open the page, the fastest of three."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        times = []
        for _ in range(3):
            tab = browser.new_page()
            tab.goto(page.as_uri())
            times.append(tab.evaluate(LOAD) / 1e3)
            tab.close()
        print(f"| opening that page in Chromium {browser.version} | {min(times):.1f} | | | |")
        browser.close()


def make_run(folder: Path, rows: int) -> Path:
    """A run with a log, validations, settings, and noise that becomes a tone as samples."""
    (folder / "samples").mkdir(parents=True)
    config = {
        "inputs": ["made-up.wav"],
        "rate": RATE,
        "symbols": 10**8,
        "yardsticks": {"flac": 3.1},
        "encoding": "linear",
    }
    (folder / "config.json").write_text(json.dumps({**config, "model": {"cell": "lstm", "rnn_size": 680, "layers": 3}}))
    make_log(folder / "log.csv", rows)
    rng, t = np.random.default_rng(0), np.arange(SECONDS * RATE) / RATE
    lines = [",".join(VAL_COLUMNS)]
    for number in range(1, CHECKPOINTS + 1):
        step, nats = number * rows // CHECKPOINTS, 1.3 + 3 / number
        lines.append(f"{step},{number},{nats:.9g},{nats / np.log(2):.9g},{step * 0.235:.9g}")
        for temperature in TEMPERATURES:
            noise = rng.normal(0, 60 / number + 2, len(t))
            sound = 128 + 50 * np.sin(2 * np.pi * 200 * t) * np.sin(4 * t) + noise
            with (folder / "samples" / f"{step:08d}_t{temperature:.2f}.wav").open("wb") as file, WavWriter(file) as wav:
                wav.write(np.clip(sound, 0, 255).astype(np.uint8))
    (folder / "val.csv").write_text("\n".join(lines) + "\n")
    return folder


def make_log(path: Path, rows: int) -> None:
    """A log.csv as charrnn-train writes it."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        file.write(",".join(LOG_COLUMNS) + "\n")
        for first in range(1, rows + 1, 100_000):
            n = np.arange(first, min(first + 100_000, rows + 1))
            loss = 1.2 + 3 * np.exp(-n / (rows / 12)) + 0.15 * rng.standard_normal(len(n))
            file.writelines(
                f"{i},{i / 7000:.9g},{y:.9g},{y / 0.693147:.9g},0.002,{y / 9:.9g},10234.5678,{i * 0.235:.9g}\n"
                for i, y in zip(n.tolist(), loss.tolist(), strict=True)
            )


if __name__ == "__main__":
    main()
