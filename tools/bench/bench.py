"""How fast codec, training and sampling are, beside named baselines in the same run.

    python tools/bench/bench.py                 everything, about ten minutes
    python tools/bench/bench.py train --repeat 5

Every figure comes from a process of its own, the candidates of a table take turns, and the median counts, so
that a machine whose speed drifts is fair to all. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROWS, STEPS = 50, 50
LAYERS, HIDDEN, EMBEDDING, SYMBOLS = 3, 680, 110, 256
SECONDS = 6.0  # of each measurement, after a warm-up
CODEC_BYTES = 300_000_000


# -- training: symbols a second ------------------------------------------------------------


def plain_loop(precision: str) -> float:
    """What one writes from torch's tutorials: nn.LSTM, cross-entropy, clip, Adam; torch's own settings."""
    import torch
    from torch import nn

    embedding, rnn, output = (
        nn.Embedding(SYMBOLS, EMBEDDING),
        nn.LSTM(EMBEDDING, HIDDEN, LAYERS),
        nn.Linear(HIDDEN, SYMBOLS),
    )
    parameters = [*embedding.parameters(), *rnn.parameters(), *output.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    state = None
    x, y = torch.randint(SYMBOLS, (2, STEPS, ROWS))

    def iterate() -> None:
        nonlocal state
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            h, carried = rnn(embedding(x), state)
            loss = nn.functional.cross_entropy(output(h).float().flatten(0, 1), y.flatten())
        state = tuple(tensor.detach() for tensor in carried)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_value_(parameters, 5)
        optimizer.step()

    return ROWS * STEPS * per_second(iterate)


def bare_loop(precision: str) -> float:
    """The network, settings and optimiser of charrnn-train in a loop that neither logs nor checks."""
    from charrnn import runtime

    runtime.before_torch()
    import torch

    from charrnn.models.char_rnn import build, detach
    from charrnn.models.config import ModelConfig

    model = build(ModelConfig(SYMBOLS, EMBEDDING, HIDDEN, LAYERS), seed=0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=2e-3, fused=True)
    state = model.initial_state(ROWS)
    x, y = torch.randint(SYMBOLS, (2, ROWS, STEPS))

    def iterate() -> None:
        nonlocal state
        with runtime.autocast(precision, "cpu"):
            loss, carried = model.loss(x, y, state)
        state = detach(carried)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_value_(parameters, 5)
        optimizer.step()

    return ROWS * STEPS * per_second(iterate)


def charrnn_train(precision: str, recipe: str = "torch-rnn") -> float:
    """The command as it is, with log, bar and checks; its own log says how long the iterations took."""
    import csv
    import json

    with tempfile.TemporaryDirectory() as folder:
        text, run = Path(folder, "noise.bin"), Path(folder, "run")
        noise(3_000_000, text)
        subprocess.run([program("bin2utf8"), text, text.with_suffix(".txt")], check=True)
        command = [
            program("charrnn-train"),
            str(text.with_suffix(".txt")),
            "--precision",
            precision,
            "--recipe",
            recipe,
            "--run-dir",
            str(run),
        ]
        command += ["--max-minutes", str((SECONDS + 3) / 60), "--val-frac", "0.0001", "--checkpoint-every", "1000000"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with (run / "log.csv").open() as file:
            seconds = [float(row["elapsed_seconds"]) for row in csv.DictReader(file)]
        training = json.loads((run / "config.json").read_text())["training"]
    warm = len(seconds) // 4
    return float(
        training["batch_size"] * training["seq_length"] * (len(seconds) - 1 - warm) / (seconds[-1] - seconds[warm])
    )


# -- sampling: symbols a second of all streams ------------------------------------------------------------


def step_by_step(streams: int) -> float:
    """nn.LSTM called once a symbol, softmax and multinomial: what one writes first."""
    import torch
    from torch import nn

    embedding, rnn, output = (
        nn.Embedding(SYMBOLS, EMBEDDING),
        nn.LSTM(EMBEDDING, HIDDEN, LAYERS),
        nn.Linear(HIDDEN, SYMBOLS),
    )
    ids, state = torch.zeros(streams, dtype=torch.long), None

    def step() -> None:
        nonlocal ids, state
        with torch.no_grad():
            h, state = rnn(embedding(ids)[None], state)
            ids = torch.multinomial(torch.softmax(output(h[0]), 1), 1)[:, 0]

    return streams * per_second(step)


def engine(
    kind: str,
    streams: int = 1,
    precision: str = "auto",
    threads: int = 0,
    layers: int = LAYERS,
    hidden: int = HIDDEN,
) -> float:
    """An engine, with the uniforms made and the symbols handed out."""
    from charrnn import runtime

    runtime.before_torch()
    import charrnn
    from charrnn.models.char_rnn import build
    from charrnn.models.config import ModelConfig
    from charrnn.sampling.generate import generate
    from charrnn.storage.checkpoint import Checkpoint

    model = build(ModelConfig(SYMBOLS, EMBEDDING, hidden, layers), seed=0)
    checkpoint = Checkpoint(model, charrnn.Vocab.of_alphabet("braille"))
    chunk = 256 if kind == "cpu" else 16  # charrnn-sample's; less, where that would take seconds
    symbols = generate(charrnn.engine(checkpoint, kind, streams, precision, threads), None, chunk=chunk)
    return chunk * streams * per_second(lambda: next(symbols))


def weights_read() -> float:
    """The limit: how often one core reads as many bytes as int4.5's weights are, as a dot product of two vectors."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported
    import numpy as np

    from charrnn.engines import arrays
    from charrnn.engines.cpu.library import library
    from charrnn.engines.cpu.pack import PackedNetwork
    from charrnn.models.char_rnn import build
    from charrnn.models.config import ModelConfig

    config = ModelConfig(SYMBOLS, EMBEDDING, HIDDEN, LAYERS)
    network = PackedNetwork(arrays(build(config, seed=0)), config, "int4.5").network
    layers = [network.layer[i] for i in range(LAYERS)]
    matrices = [network.output, *(layer.input for layer in layers), *(layer.recurrent for layer in layers)]
    size = sum(library().charrnn_size(matrix) for matrix in matrices)
    x, y = np.ones((2, size // 8), dtype=np.float32)
    return 100 * per_second(lambda: [x @ y for _ in range(100)])


def torch_int8() -> float:
    """The dynamic quantisation of torch for nn.LSTM and nn.Linear, called once a symbol, softmax and multinomial."""
    import warnings

    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(SYMBOLS, EMBEDDING)
            self.rnn = nn.LSTM(EMBEDDING, HIDDEN, LAYERS)
            self.output = nn.Linear(HIDDEN, SYMBOLS)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to move to another package
        quantize: Any = torch.ao.quantization.quantize_dynamic
        network = quantize(Network().eval(), {nn.LSTM, nn.Linear}, torch.qint8)
    ids, state = torch.zeros(1, dtype=torch.long), None

    def step() -> None:
        nonlocal ids, state
        with torch.inference_mode():
            h, state = network.rnn(network.embedding(ids)[None], state)
            ids = torch.multinomial(torch.softmax(network.output(h[0]), 1), 1)[:, 0]

    return per_second(step)


# -- the frame predictor: samples a second ------------------------------------------------------------

FRAMES = {  # cell, layers, units, taps, T, rows of a batch
    "day12": ("lstm", 2, 300, 40, 40000, 4),
    "finale": ("lstmp", 1, 512, 240, 4000, 32),
    "T 100": ("lstm", 2, 300, 40, 100, 100),
    "small": ("lstmp", 1, 128, 40, 100, 100),
}


def frame_training(preset: str, plain: bool, most: int = 4000) -> float:
    """Training on windows of noise, T of 4,000 at most: the frame predictor, or nn.LSTM under nn.Linear."""
    from charrnn import runtime

    if not plain:
        runtime.before_torch()
    import torch
    from torch import nn

    from charrnn.frames.model import FrameConfig, FrameRNN

    cell, layers, units, taps, spacing, rows = FRAMES[preset]
    spacing = min(spacing, most)
    projection = units // 2 if cell == "lstmp" else 0
    x = torch.randint(-3000, 3000, (rows, taps * spacing), dtype=torch.int16)
    y = x[:, :spacing]
    model = FrameRNN(FrameConfig(units, layers, cell, taps=taps, spacing=spacing))
    lstm = nn.LSTM(taps, units, layers, batch_first=True, proj_size=projection)
    output, table = nn.Linear(projection or units, 1), model.table(x / 32768)
    parameters = [*lstm.parameters(), *output.parameters()] if plain else list(model.parameters())
    optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=2e-3, fused=not plain)
    state = model.initial_state(rows)

    def iterate() -> None:
        if plain:
            loss = nn.functional.mse_loss(output(lstm(table)[0])[..., 0], y / 32768)
        else:
            loss = model.loss(x, y, state)[0]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return rows * spacing * per_second(iterate)


def frame_generation(preset: str, loss: str, compiled: bool = True) -> float:
    """One take of an untrained network, pass by pass: compiled, or with torch's layers."""
    from charrnn import runtime

    runtime.before_torch()
    from charrnn.engines.cpu.layer import compile_layers
    from charrnn.frames.generate import FrameStream
    from charrnn.frames.model import FrameConfig, FrameRNN

    cell, layers, units, taps, spacing, _ = FRAMES[preset]
    model = FrameRNN(FrameConfig(units, layers, cell, taps=taps, spacing=spacing, loss=loss)).eval()
    if compiled:
        compile_layers(model)
    take = FrameStream(model)
    return spacing * per_second(lambda: take.read(spacing))


# -- codec: millions of bytes a second ------------------------------------------------------------


def codec(way: str) -> float:
    """The library's functions, or what one writes first, on chunks of a megabyte."""
    import bytecodec

    data = os.urandom(1 << 20)
    text = bytecodec.Encoder().feed(data)
    work: dict[str, Callable[[], Any]] = {
        "encode": lambda: bytecodec.Encoder().feed(data),
        "decode": lambda: bytecodec.Decoder().feed(text),
        "python-encode": lambda: "".join(chr(0x2800 + byte) for byte in data).encode(),
        "python-decode": lambda: bytes(ord(character) - 0x2800 for character in text.decode()),
    }
    return len(data) / 1e6 * per_second(work[way], 2.0)


def codec_command(command: str) -> float:
    """A command from start to end on 300 MB, to /dev/null."""
    with tempfile.TemporaryDirectory() as folder:
        raw, text = Path(folder, "raw"), Path(folder, "text")
        noise(CODEC_BYTES, raw)
        if command == "utf82bin":
            subprocess.run([program("bin2utf8"), raw, text], check=True)
        began = time.perf_counter()
        subprocess.run([program(command), text if command == "utf82bin" else raw, os.devnull], check=True)
        return CODEC_BYTES / 1e6 / (time.perf_counter() - began)


# -- the tables ------------------------------------------------------------

# name of the table: unit, and rows of (what, function, arguments, whether another process keeps a core busy);
# ratios are to the first row.
TABLES: dict[str, tuple[str, list[tuple[str, Callable[..., float], tuple[Any, ...], bool]]]] = {
    "codec": (
        "MB of bytes a second",
        [
            ("a character at a time in Python, to text", codec, ("python-encode",), False),
            ("a character at a time in Python, from text", codec, ("python-decode",), False),
            ("bytecodec.Encoder", codec, ("encode",), False),
            ("bytecodec.Decoder", codec, ("decode",), False),
            ("bin2utf8, the whole command", codec_command, ("bin2utf8",), False),
            ("utf82bin, the whole command", codec_command, ("utf82bin",), False),
        ],
    ),
    "train": (
        "symbols a second, 3x680, 50 x 50",
        [
            ("plain nn.LSTM loop, fp32", plain_loop, ("fp32",), False),
            ("plain nn.LSTM loop, bf16 autocast", plain_loop, ("bf16",), False),
            ("charrnn-train, fp32", charrnn_train, ("fp32",), False),
            ("charrnn-train, bf16", charrnn_train, ("bf16",), False),
            ("charrnn-train, bf16, the modern recipe, 100 x 50", charrnn_train, ("bf16", "modern"), False),
            ("its network in a bare loop, bf16", bare_loop, ("bf16",), False),
            ("plain nn.LSTM loop, fp32, a core busy", plain_loop, ("fp32",), True),
            ("plain nn.LSTM loop, bf16, a core busy", plain_loop, ("bf16",), True),
            ("charrnn-train, fp32, a core busy", charrnn_train, ("fp32",), True),
            ("charrnn-train, bf16, a core busy", charrnn_train, ("bf16",), True),
        ],
    ),
    "frames": (
        "samples a second (training: of all rows, with T of 4,000 at most; real time is 16,000)",
        [
            ("training, day12: nn.LSTM", frame_training, ("day12", True), False),
            ("training, day12", frame_training, ("day12", False), False),
            ("training, finale: nn.LSTM", frame_training, ("finale", True), False),
            ("training, finale", frame_training, ("finale", False), False),
            ("training, 2x300, T 100: nn.LSTM", frame_training, ("T 100", True), False),
            ("training, 2x300, T 100", frame_training, ("T 100", False), False),
            *(
                (f"generating, {name}{other}", frame_generation, (preset, loss, not other), False)
                for preset, name, loss in (
                    ("day12", "day12, mse", "mse"),
                    ("day12", "day12, gaussian", "gaussian"),
                    ("finale", "finale, mse", "mse"),
                    ("T 100", "2x300, T 100, gaussian", "gaussian"),
                    ("small", "1x128, T 100, gaussian", "gaussian"),
                )
                for other in (": torch's layers", "")
            ),
        ],
    ),
    "sample": (
        "symbols a second, 3x680, all streams",
        [
            ("nn.LSTM a step, 1 stream", step_by_step, (1,), False),
            ("eager engine fp32, 1 stream", engine, ("eager", 1, "fp32"), False),
            ("eager engine bf16, 1 stream", engine, ("eager", 1, "bf16"), False),
            ("torch's dynamic int8, called once a symbol", torch_int8, (), False),
            ("onnxruntime int8, called once a symbol", engine, ("onnx",), False),
            ("onnxruntime int8, called once a symbol, 1 thread", engine, ("onnx", 1, "auto", 1), False),
            ("compiled engine int4.5, 1 stream, 2 threads", engine, ("cpu", 1, "int4.5", 2), False),
            ("compiled engine int4.5, 1 stream, 1 thread", engine, ("cpu", 1, "int4.5", 1), False),
            ("reading int4.5's weights once a symbol, 1 thread", weights_read, (), False),
            ("compiled engine int4, 1 stream, 2 threads", engine, ("cpu", 1, "int4", 2), False),
            ("compiled engine, 2x128, 1 stream", engine, ("cpu", 1, "auto", 0, 2, 128), False),
            ("nn.LSTM a step, 64 streams", step_by_step, (64,), False),
            ("eager engine fp32, 64 streams", engine, ("eager", 64, "fp32"), False),
            ("eager engine bf16, 64 streams", engine, ("eager", 64, "bf16"), False),
            ("compiled engine int4.5, 64 streams, 2 threads", engine, ("cpu", 64, "int4.5", 2), False),
        ],
    ),
}


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"{', '.join(TABLES)} (default: all)")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each row (default: 3)")
    parser.add_argument("--worker", nargs=2, metavar=("TABLE", "ROW"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        table, row = args.worker
        _, work, arguments, _ = TABLES[table][1][int(row)]
        print(work(*arguments))
        return
    unknown = set(args.tables) - TABLES.keys()
    if unknown:
        parser.error(f"there is no table {', '.join(sorted(unknown))}: choose from {', '.join(TABLES)}")
    print(machine())
    for table in args.tables or TABLES:
        unit, rows = TABLES[table]
        figures: list[list[float]] = [[] for _ in rows]
        for turn in range(args.repeat):
            for number, (what, _, _, busy) in enumerate(rows):
                print(f"\r{table}, turn {turn + 1}: {what:60}", end="", file=sys.stderr, flush=True)
                with busy_core() if busy else contextlib.nullcontext():
                    figures[number].append(measure(table, number))
        print("\r" + " " * 90 + "\r", end="", file=sys.stderr)
        base = statistics.median(figures[0])
        print(f"\n| {table}: {unit} | median | lowest to highest | ratio |\n|---|---|---|---|")
        for (what, *_), values in zip(rows, figures, strict=True):
            median = statistics.median(values)
            print(f"| {what} | {median:,.0f} | {min(values):,.0f} to {max(values):,.0f} | {median / base:.2f} |")


def measure(table: str, row: int) -> float:
    """One row, once, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--worker", table, str(row)], check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout.split()[-1])


def per_second(work: Callable[[], Any], seconds: float = SECONDS) -> float:
    """How often something can be done in a second, after a warm-up."""
    for _ in range(3):
        work()
    began, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        work()
        count += 1
    return count / passed


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """Another process that computes all the time."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def noise(count: int, path: Path) -> None:
    """A file of ``count`` random bytes."""
    with path.open("wb") as file:
        for start in range(0, count, 1 << 24):
            file.write(os.urandom(min(1 << 24, count - start)))


def program(name: str) -> str:
    """A command of the environment that this runs in."""
    return str(Path(sys.executable).with_name(name))


def machine() -> str:
    """A line that says what was measured on, and when."""
    import torch

    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return (
        f"{datetime.date.today()}, {cpu}, {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
