"""Measure training in symbols per second: python tools/bench/train.py (about six minutes)."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from table import SECONDS, Row, command_path, main, per_second

from charrnn.storage.csv_log import read_rows

N, T, V = 50, 50, 256
SIZES = {"2x256": (2, 256, 64), "3x680": (3, 680, 110)}  # layers, units, embedding


def plain_loop(size: str, precision: str) -> float:
    """Measure the loop of torch's tutorials: nn.LSTM, cross-entropy, clipping, Adam, with torch's own settings."""
    import torch
    from torch import nn

    layers, units, width = SIZES[size]
    embedding, rnn, output = nn.Embedding(V, width), nn.LSTM(width, units, layers), nn.Linear(units, V)
    parameters = [*embedding.parameters(), *rnn.parameters(), *output.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    state = None
    x, y = torch.randint(V, (2, T, N))

    def iterate() -> None:
        nonlocal state
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            h, new_state = rnn(embedding(x), state)
            loss = nn.functional.cross_entropy(output(h).float().flatten(0, 1), y.flatten())
        state = tuple(tensor.detach() for tensor in new_state)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_value_(parameters, 5)
        optimizer.step()

    return N * T * per_second(iterate)


def command(size: str, precision: str, recipe: str = "torch-rnn") -> float:
    """Measure charrnn-train with its log, progress bar and checks, by the times in its log."""
    layers, units, width = SIZES[size]
    flags = f"--layers {layers} --rnn-size {units} --wordvec-size {width} --precision {precision} --recipe {recipe}"
    flags += f" --max-minutes {(SECONDS + 3) / 60} --val-frac 0.0001 --checkpoint-every 1000000"
    with tempfile.TemporaryDirectory() as folder:
        raw, text, run = Path(folder, "noise"), Path(folder, "noise.txt"), Path(folder, "run")
        raw.write_bytes(os.urandom(3_000_000))
        subprocess.run([command_path("bin2utf8"), raw, text], check=True)
        arguments = [command_path("charrnn-train"), str(text), *flags.split(), "--run-dir", str(run)]
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = [float(row["elapsed_seconds"]) for row in read_rows(run / "log.csv")]
        settings = json.loads((run / "config.json").read_text())["training"]
    first = len(seconds) // 4  # after the warm-up
    iterations_per_second = (len(seconds) - 1 - first) / (seconds[-1] - seconds[first])
    return float(settings["batch_size"] * settings["seq_length"] * iterations_per_second)


def rows() -> list[Row]:
    """Return the rows of both sizes."""
    found = []
    for size in SIZES:
        for precision in ("fp32", "bf16"):
            plain = f"{size}: plain nn.LSTM loop, {precision}"
            found.append(Row(plain, partial(plain_loop, size, precision)))
            found.append(Row(f"{size}: charrnn-train, {precision}", partial(command, size, precision), plain))
        found.append(Row(f"{size}: the modern recipe, 100 x 50, bf16", partial(command, size, "bf16", "modern"), plain))
    return found


if __name__ == "__main__":
    main(__doc__ or "", "training: symbols per second, 50 x 50", rows())
