"""The frame predictor on a recording: its three cells side by side, both losses over two minutes, and its seams.

    python tools/bench/frames.py voice.wav piano.wav --out docs

makes three pictures of the first recording and prints the tables of docs/benchmarks.md for all of them:

    frames_cells.png     loss against iterations of lstm, lstmp and lstmor, trained alike
    frames_signal.png    the recording, and what the two losses make of it by themselves
    frames_seams.png     waveforms around the joins of passes, carried and reset

The runs are kept in --runs, and one that is there already is not made again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

import bytecodec
from charrnn.frames.audio_metrics import level, level_drift, spectrum_distance
from charrnn.sampling.seams import measure_seams
from charrnn.storage.csv_log import read_rows
from charrnn.storage.run_dir import Run

RATE = 16000
CELLS = ("lstm", "lstmp", "lstmor")
SMOOTHING = 0.98
AROUND = 25  # samples on each side of a seam that are shown
SHAPE = "--frame-taps 40 --seq-length {spacing} --layers 1"
CARRIED, RESET = "#1f5fa8", "#c23b22"

Sound = NDArray[np.float64]


def main() -> None:
    """Train and generate what is missing, print the tables, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path(), help="the folder of the pictures (default: here)")
    parser.add_argument("--iterations", type=int, default=1500, help="of each cell")
    parser.add_argument("--minutes", type=float, default=2.0, help="of each of the two losses")
    parser.add_argument("--seconds", type=float, default=120.0, help="of sound from each of the two losses")
    parser.add_argument("--spacings", default="100", help="T of the gaussian networks, with commas between them")
    parser.add_argument("--threads", type=int, default=0, help="0: a core each")
    parser.add_argument("--runs", type=Path, default=Path("runs/frames"), help="where the runs are kept")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    spacings = [int(text) for text in args.spacings.split(",")]
    print(cells_table(args, args.recordings[0]), flush=True)
    print(sounds_table(args, spacings), flush=True)
    name = args.recordings[0].stem
    draw_cells({cell: args.runs / f"{name}-{cell}" for cell in CELLS}, args.out / "frames_cells.png")
    sounds = {"recording": recording(args.recordings[0])[: round(args.seconds * RATE)]}
    for loss in ("mse", "gaussian"):
        sounds[f"--loss {loss}"] = soundfile.read(args.runs / f"{name}-{loss}-{spacings[0]}" / "carry.wav")[0]
    draw_signals(sounds, args.out / "frames_signal.png")
    run = args.runs / f"{name}-lstmp"
    joins = {join: soundfile.read(run / f"{join}.wav")[0] for join in ("carry", "reset")}
    draw_seams(joins, 100, args.out / "frames_seams.png")


def train(args: argparse.Namespace, source: Path, run: Path, flags: str) -> None:
    """Train, unless that is done."""
    if not (run / "val.csv").exists():
        print(f"training {run}", file=sys.stderr)
        command = [sys.executable, "-m", "charrnn.commands.train", str(source), "--frames", "--run-dir", str(run)]
        threads = f"--threads {args.threads} --seed 1 --checkpoint-every 250 --keep 1 -q"
        subprocess.run([*command, *flags.split(), *threads.split()], check=True, stdout=subprocess.DEVNULL)


def generate(args: argparse.Namespace, run: Path, seconds: float, join: str = "carry") -> Sound:
    """Generate, unless that is done."""
    file = run / f"{join}.wav"
    if not file.exists():
        command = [
            sys.executable,
            "-m",
            "charrnn.commands.sample",
            str(run),
            "--seconds",
            str(seconds),
            "-o",
            str(file),
        ]
        subprocess.run([*command, "--join", join, "--threads", str(args.threads), "--seed", "1", "-q"], check=True)
    return np.asarray(soundfile.read(file)[0])


def recording(path: Path) -> Sound:
    """A recording as the networks hear it, full scale 1."""
    return np.concatenate(list(bytecodec.read_blocks(path, RATE, bits=16))) / 32768


def cells_table(args: argparse.Namespace, source: Path) -> str:
    """The three cells on one recording, as Markdown."""
    head = ["cell", "parameters", "mean squared error, validation", "bits a sample", "seams carried: jump"]
    head += ["reset: jump"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for cell in CELLS:
        run = args.runs / f"{source.stem}-{cell}"
        shape = SHAPE.format(spacing=100)
        train(args, source, run, f"--loss mse --cell {cell} --rnn-size 96 {shape} --max-iterations {args.iterations}")
        jumps = [seams(generate(args, run, 10.0, join), 100) for join in ("carry", "reset")]
        last = read_rows(Run(run).val_file)[-1]
        lines.append(
            f"| `{cell}` | {parameters(run):,} | {float(last['val_loss']):.6f} | {float(last['val_bits']):.2f} | "
            f"{jumps[0]} | {jumps[1]} |"
        )
    return "\n".join(lines)


def sounds_table(args: argparse.Namespace, spacings: list[int]) -> str:
    """Both losses on every recording, as Markdown."""
    head = ["recording", "loss", "T", "iterations", "level at the end", "drift, dB a minute (recording)"]
    head += ["spectrum, dB away", "seams: jump"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for source in args.recordings:
        heard = recording(source)
        kinds = [(loss, spacing) for spacing in spacings for loss in ("gaussian", "gaussian, drawn white")]
        for kind, spacing in [("mse", spacings[0]), *kinds]:
            loss = kind.partition(",")[0]
            run = args.runs / f"{source.stem}-{loss}-{spacing}"
            flags = f"--loss {loss} --cell lstmp --rnn-size 128 {SHAPE.format(spacing=spacing)}"
            train(args, source, run, f"{flags} --max-minutes {args.minutes}")
            sound = generate(args, run if loss == kind else whitened(run), args.seconds)
            end = level(sound[-20 * RATE :]) - level(heard)
            lines.append(
                f"| {source.stem} | {kind} | {spacing} | {int(read_rows(Run(run).val_file)[-1]['iteration']):,} | "
                f"{end:+.1f} dB | {level_drift(sound, RATE):+.1f} ({level_drift(heard, RATE):+.1f}) | "
                f"{spectrum_distance(sound, heard, RATE):.1f} | {seams(sound, spacing)} |"
            )
    return "\n".join(lines)


def whitened(run: Path) -> Path:
    """A run whose newest network draws white noise, for which its filter is taken out; only to be sampled from."""
    from charrnn.frames import model as frame_model
    from charrnn.storage import checkpoint

    target = run.with_name(run.name + "-white")
    if not target.exists():
        found = frame_model.load(run)
        found.model.noise.zero_()[0] = 1
        (target / "checkpoints").mkdir(parents=True)
        (target / "config.json").write_text((run / "config.json").read_text())
        checkpoint.save(target / "checkpoints" / Path(found.path).name, found)
    return target


def parameters(run: Path) -> int:
    """How many numbers a run's network learnt."""
    from charrnn.frames import model as frame_model

    return frame_model.load(run).model.number_of_parameters()


def seams(sound: Sound, spacing: int) -> str:
    """Whether the joins of passes jump more than the inside: the stitcher's figure."""
    whole = np.round(sound * 32768)
    if spacing < 8 or not whole.any():
        return "none"
    return f"{measure_seams(whole, range(spacing, len(whole), spacing), window=min(256, spacing // 4)).jump:.2f}"


def draw_cells(runs: dict[str, Path], picture: Path) -> None:
    """Loss against iterations: training smoothed as a line, validation as dots."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for number, (cell, run) in enumerate(runs.items()):
        rows, losses, smooth = read_rows(Run(run).log_file), [], 0.0
        for row in rows:
            loss = float(row["train_loss"])
            smooth = SMOOTHING * smooth + (1 - SMOOTHING) * loss if smooth else loss
            losses.append(smooth)
        at = [int(row["iteration"]) for row in rows]
        panel.plot(at, losses, color=f"C{number}", label=f"{cell}, training", linewidth=1)
        points = read_rows(Run(run).val_file)
        panel.plot(
            [int(row["iteration"]) for row in points],
            [float(row["val_loss"]) for row in points],
            color=f"C{number}",
            marker="o",
            linestyle="none",
            markersize=4,
            label=f"{cell}, validation",
        )
    panel.set(xlabel="iteration", ylabel="mean squared error (full scale 1)", yscale="log")
    panel.grid(alpha=0.3, which="both")
    panel.legend(ncols=3, fontsize=9)
    figure.savefig(picture, dpi=110)


def draw_signals(sounds: dict[str, Sound], picture: Path) -> None:
    """Each sound whole, and a fifth of a second of its end."""
    import matplotlib.pyplot as plt

    style: dict[str, Any] = {"layout": "constrained", "sharey": True, "width_ratios": (2, 1)}
    figure, panels = plt.subplots(len(sounds), 2, figsize=(11, 1.9 * len(sounds)), **style)
    for (name, sound), (whole, close) in zip(sounds.items(), panels, strict=True):
        whole.plot(np.arange(len(sound)) / RATE, sound, linewidth=0.2, color=CARRIED)
        whole.set(title=name, ylabel="amplitude", xlim=(0, len(sound) / RATE))
        loudest = loudest_fifth(sound)
        close.plot(
            np.arange(RATE // 5) / RATE * 1000, sound[loudest : loudest + RATE // 5], linewidth=0.7, color=CARRIED
        )
        close.set(title=f"from {loudest / RATE:.1f} s on", xlim=(0, 200))
    panels[-1, 0].set_xlabel("seconds")
    panels[-1, 1].set_xlabel("milliseconds")
    figure.savefig(picture, dpi=110)


def loudest_fifth(sound: Sound) -> int:
    """Where the loudest fifth of a second of the last 20 begins."""
    size, last = RATE // 5, sound[-20 * RATE :]
    power = np.square(last[: len(last) // size * size]).reshape(-1, size).sum(axis=1)
    return len(sound) - len(last) + int(power.argmax()) * size


def draw_seams(joins: dict[str, Sound], spacing: int, picture: Path) -> None:
    """Some waveforms around seams, with the seam marked, and the mean step at each place in a pass."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(11, 5), layout="constrained", sharex="col", width_ratios=(2, 1))
    for (join, sound), color, (waves, steps) in zip(joins.items(), (CARRIED, RESET), panels, strict=True):
        begin = loudest_fifth(sound) // spacing * spacing + spacing // 2
        part = sound[begin : begin + 6 * spacing]
        waves.plot(np.arange(len(part)) / RATE * 1000, part, color=color, linewidth=1)
        for seam in range(spacing // 2, len(part), spacing):
            waves.axvline(seam / RATE * 1000, color="gray", linewidth=0.7, linestyle=":")
        waves.set(title=f"--join {join}", ylabel="amplitude")
        jumps = np.abs(np.diff(sound))[: (len(sound) - 1) // spacing * spacing].reshape(-1, spacing).mean(axis=0)
        places = np.arange(1, spacing + 1)
        places = np.where(places > spacing // 2, places - spacing, places)
        order = np.argsort(places)
        near = order[np.abs(places[order]) <= AROUND]
        steps.bar(places[near], jumps[near] / np.median(jumps), color=color)
        steps.set(title="mean step, against the pass's median", ylim=(0, None))
    panels[1, 0].set_xlabel("milliseconds (dotted: seams)")
    panels[1, 1].set_xlabel("samples from the seam")
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main()
