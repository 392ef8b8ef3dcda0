"""Feed broken and hostile input to all that reads files: each has to be read or refused with one sentence.

    python tools/campaigns/fuzz.py --inputs 100000
    python tools/campaigns/fuzz.py --only checkpoint,t7 --inputs 1000 --seed 7

Inputs are good files with bytes changed, cut, doubled and spliced, and with numbers of headers put at their borders;
they hang on the seed alone. The inputs are read in processes that may take a gigabyte more than they began with, and
have ten seconds for each input. What a fault was found with is kept in --keep. Linux only.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import bytecodec
from bytecodec.errors import InputError

SECONDS = 10
MEMORY = 1 << 30
LONGEST = 400  # characters of a sentence
BLOCKS = 1 << 15  # inputs that a process reads before the next one begins
EXTREMES = [
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    256,
    32767,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
]
VALUES = [
    "null",
    "true",
    "-1",
    "0",
    "1e400",
    "NaN",
    "-Infinity",
    "1000000000",
    "1" + "0" * 30,
    '"x"',
    "[]",
    "{}",
    "[[]]",
]


@dataclass
class Target:
    """Something that reads files.

    Attributes
    ----------
    seeds
        Good files.
    read
        Reads the file at a path; a sentence in an `InputError` is the other way to take it.
    suffix
        Of the file's name.
    head
        How much of the beginning is changed more often than the rest; 0: no part is.
    """

    seeds: list[bytes]
    read: Callable[[Path], object]
    suffix: str
    head: int = 0


def mutated(rng: random.Random, seeds: list[bytes], head: int) -> bytes:
    """A good file with one to four changes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4))):
        end = min(head, len(data)) if head and rng.random() < 0.8 else len(data)
        at = rng.randrange(end + 1)
        kind = rng.randrange(8)
        if kind == 0:
            data[at : at + 1] = rng.randbytes(1)
        elif kind == 1 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            size = rng.choice((1, 2, 4, 8))
            number = (rng.choice(EXTREMES) % 256**size).to_bytes(size, rng.choice(("little", "big")))
            data[at : at + size] = number
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + rng.choice((1, 2, 4, 30))]
        elif kind == 5:
            data[at:at] = data[at : at + rng.choice((1, 4, 8, 64))] * rng.choice((1, 2, 50))
        elif kind == 6:
            other = rng.choice(seeds)
            there = rng.randrange(len(other) + 1)
            data[at : at + 16] = other[there : there + 16]
        else:
            data[at:at] = rng.choice(VALUES).encode() if rng.random() < 0.5 else rng.randbytes(4)
    return bytes(data)


def with_other_value(rng: random.Random, text: str) -> str:
    """A JSON text with some number, word or list put for one of its values."""
    values = [m for m in range(len(text)) if text[m] == ":"]
    if not values:
        return text
    begin = rng.choice(values) + 1
    end = begin
    while end < len(text) and text[end] not in ",}":
        end += 1
    return text[:begin] + rng.choice(VALUES) + text[end:]


# What reads, and good files for it


def recordings(folder: Path) -> Target:
    """Recordings of many formats, and files joined of two, as wav2utf8 and charrnn-train read them."""
    import soundfile

    sound = (0.4 * np.sin(np.arange(600) / 7)).astype(np.float32)
    seeds = []
    for form, subtype in [
        *(("WAV", name) for name in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "GSM610")),
        *(("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("AIFF", "PCM_16")),
        *(("W64", "PCM_16"), ("CAF", "PCM_16"), ("AU", "PCM_16"), ("MP3", "MPEG_LAYER_III")),
    ]:
        file = io.BytesIO()
        samples = sound if form != "WAVEX" else np.stack([sound, -sound], axis=1)
        soundfile.write(file, samples, 11025, format=form, subtype=subtype)
        seeds.append(file.getvalue())
    with io.BytesIO() as written:
        with bytecodec.WavWriter(written, 11025) as wav:
            wav.cue()
            wav.write(bytes(range(256)))
        seeds.append(written.getvalue())
    seeds += [seed + seed for seed in seeds]

    def read(path: Path) -> None:
        for block in bytecodec.read_blocks(path, 11025):
            assert block.dtype == np.uint8
            assert len(block)

    return Target(seeds, read, ".wav", 90)


def texts(folder: Path) -> Target:
    """The decoder of utf82wav, and the texts that charrnn-train reads."""
    from charrnn.data.corpus import prepare_corpus
    from charrnn.data.recordings import SoundOptions

    sound = bytes(np.random.default_rng(0).integers(0, 256, 80, dtype=np.uint8))
    seeds = [bytecodec.encode(sound, name).encode() for name in bytecodec.ALPHABETS]
    seeds += [b"\xef\xbb\xbf" + seeds[0] + b"\r\n", "Žluťoučký kůň. 你好。😀\n".encode(), b""]
    seeds += [
        seeds[0] + b"\r\n\xef\xbb\xbf" + seeds[0],
        *("Zwölf Jäger.\r\n".encode(name) for name in ("utf-16", "latin-1")),
    ]

    def read(path: Path) -> None:
        content = path.read_bytes()
        for errors in ("strict", "skip"):
            decoder = bytecodec.Decoder(errors=errors)
            try:
                for at in range(0, len(content), 7):
                    decoder.feed(content[at : at + 7])
                decoder.close()
            except bytecodec.NoTableError:
                pass
            except InputError:
                if errors == "skip":
                    raise
        prepare_corpus([str(path)], folder / "corpus.bin", SoundOptions(), quiet=True)

    return Target(seeds, read, ".txt")


def checkpoints(folder: Path) -> Target:
    """Checkpoints of both kinds, states, and a few symbols from what was let in."""
    import torch

    from charrnn.data.vocab import Vocab
    from charrnn.engines import engine
    from charrnn.frames import generate as frame_generate
    from charrnn.frames import model as frame_model
    from charrnn.models.char_rnn import CharRNN
    from charrnn.models.config import ModelConfig
    from charrnn.sampling import generate
    from charrnn.storage import checkpoint, checkpoint_format

    seeds = []
    path = folder / "seed"
    for cell in ("lstm", "lstmp", "lstmor", "gru", "rnn"):
        model = CharRNN(ModelConfig(4, 2, 3, 1, cell, layer_norm=cell == "gru"))
        made = checkpoint.Checkpoint(
            model, Vocab("abcd"), step=3, epoch=0.5, rate=11025, encoding="linear", train_loss=1.0, val_loss=1.5
        )
        checkpoint.save(path, made)
        seeds.append(path.read_bytes())
    small = checkpoint.load(path)
    running = engine(small, streams=2)
    generate.prime(running, np.array([0, 1]))
    checkpoint_format.save_streams(path, checkpoint_format.Streams(*running.get_state(), 7, 3))
    streams = path.read_bytes()
    for loss in frame_model.LOSSES:
        of_frames = frame_model.FrameRNN(frame_model.FrameConfig(3, 1, taps=2, spacing=4, loss=loss)).eval()
        checkpoint.save(path, frame_model.FrameCheckpoint(of_frames, 3, 0.5, 16000, 0.1, 0.2))
        seeds.append(path.read_bytes())
    take = frame_generate.FrameStream(of_frames)
    take.read(4)
    frame_generate.save_streams(path, [take])
    takes = path.read_bytes()
    torch.set_num_threads(1)

    def read(path: Path) -> None:
        kind = checkpoint_format.kind_of(path)
        if kind == checkpoint_format.STREAMS_KIND:
            checkpoint_format.load_streams(path, small.config)
        elif kind == frame_generate.STREAMS_KIND:
            frame_generate.load_streams(path, of_frames)[0].read(4)
        elif kind == frame_model.KIND:
            frame_generate.FrameStream(frame_model.load(path).model).read(4)
        else:
            made = checkpoint.load(path)
            for ids in generate.generate(engine(made), 2, 1.0, 0):
                made.vocab.decode(ids[0])

    return Target([*seeds, streams, takes], read, ".safetensors", 900)


def torch7(folder: Path) -> Target:
    """What torch-rnn saved, as charrnn-convert takes it."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
    import torch_rnn_model  # type: ignore[import-not-found]  # the tests' writer

    from charrnn.storage import torch_rnn

    seeds = []
    for cell, more in (("lstm", {}), ("rnn", {}), ("lstm", {"batchnorm": True, "dropout": 0.5})):
        layers = torch_rnn_model.layers("abc", cell, (2, 3, 3), **more)
        seeds.append(torch_rnn_model.write(folder / "seed", "abc", layers).read_bytes())
    return Target(seeds, torch_rnn.load, ".t7")


def tables(folder: Path) -> Target:
    """CSV as charrnn-plot and a resumed run read it."""
    from charrnn.storage.csv_log import LOG_COLUMNS, CsvLog
    from charrnn.viz import curves

    rows = [f"{i},{i / 9:.6f},{3 - i / 20:.7g},{i},0.001,1,100,{i}" for i in range(1, 12)]
    log = "\n".join([",".join(LOG_COLUMNS), *rows, ""])
    seeds = [
        log.encode(),
        log.replace(",", ";").encode(),
        b"a,b\n1,2\n3,4\n",
        b"x\ty\n1\tnan\n2\t-inf\n",
        b'"a","b"\n"1","2"\n',
        b"a,b\n" + b"1" * 140_000 + b",2\n3,4\n",
    ]

    def read(path: Path) -> None:
        CsvLog(path, LOG_COLUMNS, 5).close() if path.read_bytes()[:9] == b"iteration" else None
        curves.csv_series(path, "name")

    return Target(seeds, read, ".csv", 60)


def configs(folder: Path) -> Target:
    """config.json of a run, as --resume and the pictures read it; best.json."""
    from charrnn import runtime
    from charrnn.commands.train import charrnn_train
    from charrnn.storage import run_dir
    from charrnn.training.trainer import Trainer
    from charrnn.viz import curves, run_summary

    runtime.set_threads(1)
    text = bytecodec.encode(bytes(np.random.default_rng(0).integers(100, 130, 400, dtype=np.uint8)))
    (folder / "sound.txt").write_text(text, encoding="utf-8")
    run = run_dir.Run(folder / "run")
    flags = "--rnn-size 3 --layers 1 --wordvec-size 2 --batch-size 2 --seq-length 4 --max-iterations 2 --threads 1 -q"
    with_out, sys.stdout = sys.stdout, io.TextIOWrapper(io.BytesIO())
    assert charrnn_train([str(folder / "sound.txt"), *flags.split(), "--run-dir", str(run.path)]) == 0
    sys.stdout = with_out
    good = run.config_file.read_bytes()
    Trainer.train = lambda *_, **__: None  # type: ignore[method-assign]  # a longer run may be asked for, and take long

    def read(path: Path) -> None:
        content = path.read_bytes()
        run.config_file.write_bytes(content)
        run.best_file.write_bytes(content)
        run.best()
        errors = io.StringIO()
        out, err, sys.stdout, sys.stderr = sys.stdout, sys.stderr, io.TextIOWrapper(io.BytesIO()), errors
        try:
            code = charrnn_train(["--resume", str(run.path), "-q"])
        finally:
            sys.stdout, sys.stderr = out, err
        assert code in (0, 1)
        said = errors.getvalue()
        assert said.count("\n") == code, said
        run_summary.RunSummary(run).settings()
        curves.flac_baseline(run)

    return Target([good], read, ".json")


TARGETS: dict[str, Callable[[Path], Target]] = {
    "recordings": recordings,
    "texts": texts,
    "checkpoint": checkpoints,
    "t7": torch7,
    "csv": tables,
    "config": configs,
}


# Reading them


@dataclass
class Outcome:
    """What came of some inputs."""

    read: int = 0
    refused: int = 0
    slowest: float = 0.0
    memory: int = 0
    faults: int = 0


def feed(name: str, inputs: range, seed: int, keep: Path) -> Outcome:
    """Read inputs of a target, each the same whichever others are read; runs in a process of its own."""
    found = Outcome()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        folder = Path(place)
        target = TARGETS[name](folder)
        limit_memory()
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # of files that a refusal leaves to the collector
        signal.signal(signal.SIGALRM, too_slow)
        path = folder / f"input{target.suffix}"
        around = sorted(folder.parent.iterdir())
        before = usage()
        for number in inputs:
            rng = random.Random(f"{name} {seed} {number}")
            data = mutated(rng, target.seeds, target.head)
            if target.suffix in (".json", ".safetensors") and rng.random() < 0.5:
                data = change_json(rng, rng.choice(target.seeds), target.suffix)
            path.write_bytes(data)
            begin = time.monotonic()
            signal.alarm(SECONDS)
            try:
                target.read(path)
                found.read += 1
            except InputError as error:
                found.refused += 1
                if "\n" in str(error) or len(str(error)) > LONGEST:
                    fault(keep, name, number, data, f"a long sentence: {error}")
                    found.faults += 1
            except BaseException:
                fault(keep, name, number, data, traceback.format_exc())
                found.faults += 1
            signal.alarm(0)
            found.slowest = max(found.slowest, time.monotonic() - begin)
        found.memory = usage() - before
        outside = [p for p in folder.parent.iterdir() if p not in around and not p.name.startswith(("fuzz-", "tmp"))]
        assert not (folder.parent / "input").exists(), outside
    return found


def change_json(rng: random.Random, data: bytes, suffix: str) -> bytes:
    """A file whose JSON stays JSON, with other values; of a safetensors file also its metadata's."""
    if suffix == ".json":
        return with_other_value(rng, data.decode()).encode()
    size = struct.unpack("<Q", data[:8])[0]
    head = data[8 : 8 + size].decode()
    if rng.random() < 0.7:
        parsed = json.loads(head)
        text = parsed["__metadata__"]["charrnn"]
        for _ in range(rng.choice((1, 1, 2))):
            text = with_other_value(rng, text)
        parsed["__metadata__"]["charrnn"] = text
        head = json.dumps(parsed)
    else:
        head = with_other_value(rng, head)
    return struct.pack("<Q", len(head.encode())) + head.encode() + data[8 + size :]


def limit_memory() -> None:
    """Allow this process a gigabyte more of addresses than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def usage() -> int:
    """The most memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class TooSlowError(BaseException):
    """Like KeyboardInterrupt, no ``except Exception`` and no ``except OSError`` catches it."""


def too_slow(*_: object) -> None:
    """Ten seconds are over."""
    raise TooSlowError(f"it took more than {SECONDS} seconds")


def fault(keep: Path, name: str, number: int, data: bytes, words: str) -> None:
    """Keep an input and what went wrong with it."""
    keep.mkdir(parents=True, exist_ok=True)
    (keep / f"{name}-{number}").write_bytes(data)
    (keep / f"{name}-{number}.error").write_text(words, encoding="utf-8", errors="backslashreplace")
    print(f"{name} {number}: {words.strip().splitlines()[-1][:200]}", file=sys.stderr, flush=True)


def fed(name: str, inputs: range, seed: int, keep: Path) -> Outcome:
    """`feed` in another process, whose end by a crash is a fault."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        code = 1
        try:
            os.write(writer, json.dumps(vars(feed(name, inputs, seed, keep))).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code:
        print(f"{name}: the process ended with {code} somewhere in {inputs}", file=sys.stderr)
    return Outcome(**json.loads(said)) if said else Outcome(faults=1)


def main() -> int:
    """Feed all targets; prints a table and returns 1 where a fault was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, help="for each (default: 1000)")
    parser.add_argument("--only", default=",".join(TARGETS), help="names, with commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"))
    args = parser.parse_args()
    faults = 0
    for name in args.only.split(","):
        begin, total = time.monotonic(), Outcome()
        for first in range(0, args.inputs, BLOCKS):
            some: dict[str, Any] = vars(fed(name, range(first, min(first + BLOCKS, args.inputs)), args.seed, args.keep))
            for key in ("read", "refused", "faults"):
                setattr(total, key, getattr(total, key) + some[key])
            total.slowest, total.memory = max(total.slowest, some["slowest"]), max(total.memory, some["memory"])
        print(
            f"{name:11}{total.read + total.refused:9,} inputs: {total.read:,} read, {total.refused:,} refused, "
            f"{total.faults} faults; {time.monotonic() - begin:.0f} s, slowest {total.slowest:.2f} s, "
            f"{total.memory / 1e6:.0f} MB more",
            flush=True,
        )
        faults += total.faults
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
