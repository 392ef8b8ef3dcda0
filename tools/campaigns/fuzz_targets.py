"""Targets of tools/campaigns/fuzz.py: valid files of each kind, and the functions that read them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import bytecodec
from bytecodec.errors import InputError


@dataclass
class Target:
    """A reader of files.

    Attributes
    ----------
    seeds
        Valid files.
    read
        Reads a file; raises `InputError` to reject it.
    suffix
        Suffix of the file's name.
    header
        Number of bytes at the start that change more often than the rest; 0 for none.
    """

    seeds: list[bytes]
    read: Callable[[Path], object]
    suffix: str
    header: int = 0


def recordings(folder: Path) -> Target:
    """Read recordings of many formats, and pairs of files joined, as wav2utf8 does."""
    import soundfile

    sound = (0.4 * np.sin(np.arange(600) / 7)).astype(np.float32)
    wav = "PCM_U8 PCM_16 PCM_24 FLOAT DOUBLE ULAW IMA_ADPCM GSM610".split()
    others = "WAVEX RF64 FLAC AIFF W64 CAF AU".split()
    formats = [("WAV", name) for name in wav] + [(name, "PCM_16") for name in others]
    seeds = []
    for form, subtype in [*formats, ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]:
        file = io.BytesIO()
        samples = sound if form != "WAVEX" else np.stack([sound, -sound], axis=1)
        soundfile.write(file, samples, 11025, format=form, subtype=subtype)
        seeds.append(file.getvalue())
    with io.BytesIO() as written:
        with bytecodec.WavWriter(written, 11025) as writer:
            writer.cue()
            writer.write(bytes(range(256)))
        seeds.append(written.getvalue())
    seeds += [seed + seed for seed in seeds]

    def read(path: Path) -> None:
        for block in bytecodec.read_blocks(path, 11025):
            assert block.dtype == np.uint8
            assert len(block)

    return Target(seeds, read, ".wav", 90)


def texts(folder: Path) -> Target:
    """Decode texts as utf82wav does, and prepare them as charrnn-train does."""
    from charrnn.data.corpus import prepare_corpus
    from charrnn.data.recordings import SoundOptions

    sound = bytes(np.random.default_rng(0).integers(0, 256, 80, dtype=np.uint8))
    seeds = [bytecodec.encode(sound, name).encode() for name in bytecodec.ALPHABETS]
    seeds += [b"\xef\xbb\xbf" + seeds[0] + b"\r\n", "Žluťoučký kůň. 你好。😀\n".encode(), b""]
    seeds += [seeds[0] + b"\r\n\xef\xbb\xbf" + seeds[0]]
    seeds += ["Zwölf Jäger.\r\n".encode(name) for name in ("utf-16", "latin-1")]

    def read(path: Path) -> None:
        content = path.read_bytes()
        for errors in ("strict", "skip"):
            decoder = bytecodec.Decoder(errors=errors)
            try:
                for start in range(0, len(content), 7):
                    decoder.feed(content[start : start + 7])
                decoder.close()
            except bytecodec.NoTableError:
                pass
            except InputError:
                if errors == "skip":
                    raise
        prepare_corpus([str(path)], folder / "corpus.bin", SoundOptions(), quiet=True)

    return Target(seeds, read, ".txt")


def checkpoints(folder: Path) -> Target:
    """Load checkpoints and states of both kinds, and sample from those that load."""
    import torch

    from charrnn.data.vocab import Vocab
    from charrnn.engines import engine
    from charrnn.frames import generate as frame_generate
    from charrnn.frames import model as frame_model
    from charrnn.models.char_rnn import CharRNN
    from charrnn.models.config import CELLS, ModelConfig
    from charrnn.sampling import generate
    from charrnn.storage import checkpoint, checkpoint_format

    torch.set_num_threads(1)
    path, seeds, fields = folder / "seed", [], {"step": 3, "epoch": 0.5, "train_loss": 1.0, "val_loss": 1.5}
    for cell in CELLS:
        model = CharRNN(ModelConfig(4, 2, 3, 1, cell, layer_norm=cell == "gru"))
        made = checkpoint.Checkpoint(model, Vocab("abcd"), rate=11025, encoding="linear", **fields)  # type: ignore[arg-type]
        checkpoint.save(path, made)
        seeds.append(path.read_bytes())
    small = checkpoint.load(path)
    running = engine(small, streams=2)
    generate.prime(running, np.array([0, 1]))
    checkpoint_format.save_streams(path, checkpoint_format.Streams(*running.get_state(), 7, 3))
    seeds.append(path.read_bytes())
    for loss in frame_model.LOSSES:
        predictor = frame_model.FrameRNN(frame_model.FrameConfig(3, 1, taps=2, spacing=4, loss=loss)).eval()
        checkpoint.save(path, frame_model.FrameCheckpoint(predictor, 3, 0.5, 16000, 0.1, 0.2))
        seeds.append(path.read_bytes())
    stream = frame_generate.FrameStream(predictor)
    stream.read(4)
    frame_generate.save_streams(path, [stream])
    seeds.append(path.read_bytes())

    def read(path: Path) -> None:
        kind = checkpoint_format.kind_of(path)
        if kind == checkpoint_format.STREAMS_KIND:
            checkpoint_format.load_streams(path, small.config)
        elif kind == frame_generate.STREAMS_KIND:
            frame_generate.load_streams(path, predictor)[0].read(4)
        elif kind == frame_model.KIND:
            frame_generate.FrameStream(frame_model.load(path).model).read(4)
        else:
            made = checkpoint.load(path)
            for ids in generate.generate(engine(made), 2, 1.0, 0):
                made.vocab.decode(ids[0])

    return Target(seeds, read, ".safetensors", 900)


def tables(folder: Path) -> Target:
    """Read CSV files as charrnn-plot and a resumed run do."""
    from charrnn.storage.csv_log import LOG_COLUMNS, CsvLog
    from charrnn.viz import curves

    rows = [f"{i},{i / 9:.6f},{3 - i / 20:.7g},{i},0.001,1,100,{i}" for i in range(1, 12)]
    log = "\n".join([",".join(LOG_COLUMNS), *rows, ""])
    seeds = [log.encode(), log.replace(",", ";").encode(), b"a,b\n1,2\n3,4\n", b"x\ty\n1\tnan\n2\t-inf\n"]
    seeds += [b'"a","b"\n"1","2"\n', b"a,b\n" + b"1" * 140_000 + b",2\n3,4\n"]

    def read(path: Path) -> None:
        if path.read_bytes()[:9] == b"iteration":
            CsvLog(path, LOG_COLUMNS, 5).close()
        curves.csv_series(path, "name")

    return Target(seeds, read, ".csv", 60)


def configs(folder: Path) -> Target:
    """Read config.json and best.json of a run as --resume and the report do."""
    from charrnn import runtime
    from charrnn.commands.train import charrnn_train
    from charrnn.storage import run_dir
    from charrnn.training.trainer import Trainer
    from charrnn.viz import run_summary

    runtime.set_threads(1)
    text = bytecodec.encode(bytes(np.random.default_rng(0).integers(100, 130, 400, dtype=np.uint8)))
    (folder / "sound.txt").write_text(text, encoding="utf-8")
    run = run_dir.Run(folder / "run")
    flags = "--rnn-size 3 --layers 1 --wordvec-size 2 --batch-size 2 --seq-length 4 --max-iterations 2 --threads 1 -q"

    def train(*argv: str) -> tuple[int, str]:
        errors = io.StringIO()
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())), contextlib.redirect_stderr(errors):
            return charrnn_train(argv), errors.getvalue()

    code, messages = train(str(folder / "sound.txt"), *flags.split(), "--run-dir", str(run.path))
    assert code == 0, messages
    seed = run.config_file.read_bytes()
    Trainer.train = lambda *_, **__: None  # type: ignore[method-assign]  # a mutated run could train for long

    def read(path: Path) -> None:
        content = path.read_bytes()
        run.config_file.write_bytes(content)
        run.best_file.write_bytes(content)
        run.best()
        code, messages = train("--resume", str(run.path), "-q")
        assert code in (0, 1)
        assert messages.count("\n") == code, messages
        run_summary.RunSummary(run).settings()

    return Target([seed], read, ".json")


TARGETS: dict[str, Callable[[Path], Target]] = {
    "recordings": recordings,
    "texts": texts,
    "checkpoint": checkpoints,
    "csv": tables,
    "config": configs,
}
