"""Measure sampling in symbols per second of all streams: python tools/bench/sample.py (about four minutes)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from table import Row, main, per_second

LAYERS, UNITS, WIDTH, V = 3, 680, 110, 256


def plain_steps(streams: int) -> float:
    """Measure plain torch: nn.LSTM called once per symbol, softmax and multinomial."""
    import torch
    from torch import nn

    embedding, rnn, output = nn.Embedding(V, WIDTH), nn.LSTM(WIDTH, UNITS, LAYERS), nn.Linear(UNITS, V)
    ids, state = torch.zeros(streams, dtype=torch.long), None

    def step() -> None:
        nonlocal ids, state
        with torch.no_grad():
            h, state = rnn(embedding(ids)[None], state)
            ids = torch.multinomial(torch.softmax(output(h[0]), 1), 1)[:, 0]

    return streams * per_second(step)


def engine(
    kind: str, streams: int, precision: str = "auto", threads: int = 0, small: bool = False, predicts: bool = False
) -> float:
    """Measure an engine, including the uniform numbers and the symbols' transfer; a small network is 2x256."""
    from charrnn import runtime

    runtime.before_torch()
    import charrnn
    from charrnn.models.char_rnn import build
    from charrnn.models.config import ModelConfig
    from charrnn.sampling.generate import generate
    from charrnn.storage.checkpoint import Checkpoint

    config = ModelConfig(V, WIDTH, 256, 2) if small else ModelConfig(V, WIDTH, UNITS, LAYERS)
    if predicts:
        config = replace(config, context=31, prediction="lpc-long")
    model = build(config, seed=0)
    checkpoint = Checkpoint(model, charrnn.Vocab.of_alphabet("braille"))
    chunk = 256 if kind == "cpu" else 16  # 256 is charrnn-sample's; other engines would need seconds for it
    symbols = generate(charrnn.engine(checkpoint, kind, streams, precision, threads), None, chunk=chunk)
    return chunk * streams * per_second(lambda: next(symbols))


def rows() -> list[Row]:
    """Return the rows of one stream and of 64."""
    found = []
    for streams, label in ((1, "1 stream"), (64, "64 streams")):
        plain = f"{label}: plain nn.LSTM steps"
        found.append(Row(plain, partial(plain_steps, streams)))
        found.append(Row(f"{label}: eager engine, bf16", partial(engine, "eager", streams, "bf16"), plain))
        compiled = partial(engine, "cpu", streams, "int4.5")
        if streams == 1:
            found.append(Row(f"{label}: onnxruntime engine, int8", partial(engine, "onnx", 1), plain))
            found.append(Row(f"{label}: compiled engine, int4.5, 1 thread", partial(compiled, 1), plain))
        small = partial(engine, "cpu", streams, small=True)
        found.append(Row(f"{label}: compiled engine, 2x256", small, plain))
        found.append(Row(f"{label}: the same with prediction", partial(small, predicts=True), plain))
        found.append(Row(f"{label}: compiled engine, int4.5, 2 threads", partial(compiled, 2), plain))
    return found


if __name__ == "__main__":
    main(__doc__ or "", "sampling: symbols per second of all streams, 3x680", rows())
