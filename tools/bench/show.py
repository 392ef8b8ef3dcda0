"""Measure charrnn-plot, charrnn-report and charrnn-video on a synthetic run: python tools/bench/show.py.

Each command is compared with the shortest program that draws or encodes the same data. Less is better.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from table import Row, main

from bytecodec import WavWriter
from charrnn.storage.csv_log import LOG_COLUMNS, VAL_COLUMNS

RATE = 11025
ROWS, CHECKPOINTS, SECONDS, TEMPERATURES = 500_000, 50, 10, (0.8, 1.0)
VIDEO_CHECKPOINTS = "200000,300000,400000,newest"  # at two temperatures each
VIDEO_SECONDS = 95
WIDTH, HEIGHT = 16383, 1080

PLAIN_PLOT = f"""
import sys, matplotlib; matplotlib.use("agg")
import numpy as np, matplotlib.pyplot as plt
x, y = np.loadtxt(sys.argv[1], delimiter=",", skiprows=1, usecols=(0, 2), unpack=True)
plt.figure(figsize=({WIDTH / 100}, {HEIGHT / 100})); plt.plot(x, y); plt.savefig(sys.argv[2], dpi=100)
"""
PLAIN_PAGE = """
import sys, numpy as np, plotly.graph_objects as go
x, y = np.loadtxt(sys.argv[1], delimiter=",", skiprows=1, usecols=(0, 2), unpack=True)
go.Figure(go.Scattergl(x=x, y=y)).write_html(sys.argv[2])
"""
PYTHON = sys.executable
VIDEO_SOURCE = f"color=size=1920x1080:rate=30:duration={VIDEO_SECONDS}"  # of the same length, without content
PAIRS = {  # a plain program, and the command that is compared with it, in a folder with the run
    "plain matplotlib, 500,000 rows": (
        [PYTHON, "-c", PLAIN_PLOT, "run/log.csv", "out.png"],
        f"plot run -o out.png --width {WIDTH} --height {HEIGHT}",
    ),
    "plain plotly, 500,000 rows": ([PYTHON, "-c", PLAIN_PAGE, "run/log.csv", "out.html"], "report run -o out.html"),
    f"ffmpeg alone, {VIDEO_SECONDS} s": (
        ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", VIDEO_SOURCE, "-pix_fmt", "yuv420p", "out.mp4"],
        f"video run -o out.mp4 --checkpoints {VIDEO_CHECKPOINTS} -q",
    ),
}


def measure(command: list[str], figure: str) -> float:
    """Run a command; return seconds, or the peak memory of its process in MB."""
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder, "run"))
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, "the command failed"
        return time.perf_counter() - start if figure == "seconds" else usage.ru_maxrss / 1e3


def make_run(folder: Path) -> None:
    """Write a run with logs, settings and samples, from noise at first to a tone at last."""
    (folder / "samples").mkdir(parents=True)
    config = {"inputs": ["synthetic.wav"], "rate": RATE, "symbols": 10**8, "yardsticks": {"flac": 3.1}}
    model = {"cell": "lstm", "rnn_size": 680, "layers": 3}
    (folder / "config.json").write_text(json.dumps({**config, "encoding": "linear", "model": model}))
    rng, t = np.random.default_rng(0), np.arange(SECONDS * RATE) / RATE
    n = np.arange(1, ROWS + 1)
    loss = 1.2 + 3 * np.exp(-n / (ROWS / 12)) + 0.15 * rng.standard_normal(ROWS)
    with (folder / "log.csv").open("w") as file:
        file.write(",".join(LOG_COLUMNS) + "\n")
        file.writelines(
            f"{i},{i / 7000:.9g},{y:.9g},{y / 0.693147:.9g},0.002,{y / 9:.9g},10234.5678,{i * 0.235:.9g}\n"
            for i, y in zip(n.tolist(), loss.tolist(), strict=True)
        )
    lines = [",".join(VAL_COLUMNS)]
    for number in range(1, CHECKPOINTS + 1):
        step, nats = number * ROWS // CHECKPOINTS, 1.3 + 3 / number
        lines.append(f"{step},{number},{nats:.9g},{nats / np.log(2):.9g},{step * 0.235:.9g}")
        for temperature in TEMPERATURES:
            sound = 128 + 50 * np.sin(1257 * t) * np.sin(4 * t) + rng.normal(0, 60 / number + 2, len(t))
            path = folder / "samples" / f"{step:08d}_t{temperature:.2f}.wav"
            with path.open("wb") as wav_file, WavWriter(wav_file) as wav:
                wav.write(np.clip(sound, 0, 255).astype(np.uint8))
    (folder / "val.csv").write_text("\n".join(lines) + "\n")


def rows() -> list[Row]:
    """Return the rows of seconds and of memory."""
    found = []
    for figure, (plain, (plain_command, command)) in itertools.product(("seconds", "MB"), PAIRS.items()):
        name, *flags = command.split()
        baseline = f"{figure}: {plain}"
        tested = [PYTHON, "-m", f"charrnn.commands.{name}", *flags]
        found.append(Row(baseline, partial(measure, plain_command, figure)))
        found.append(Row(f"{figure}: charrnn-{name}", partial(measure, tested, figure), baseline))
    return found


if __name__ == "__main__":
    main(__doc__ or "", "plots, report and video: seconds, and peak memory in MB", rows())
