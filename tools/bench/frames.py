"""Measure the frame predictor in samples per second: python tools/bench/frames.py (about five minutes).

Training counts the samples of all rows, with T of 4,000 at most. Real time is 16,000.
"""

from __future__ import annotations

from functools import partial

from table import Row, main, per_second

PRESETS = {  # cell, layers, units, taps, T, rows of a batch
    "day12": ("lstm", 2, 300, 40, 40000, 4),
    "finale": ("lstmp", 1, 512, 240, 4000, 32),
    "2x300, T 100": ("lstm", 2, 300, 40, 100, 100),
}
LONGEST = 4000  # T of training, so that a measurement has several iterations


def training(preset: str, plain: bool) -> float:
    """Measure training of the frame predictor, or of nn.LSTM and nn.Linear, on windows of noise."""
    from charrnn import runtime

    if not plain:
        runtime.before_torch()
    import torch
    from torch import nn

    from charrnn.frames.model import FrameConfig, FrameRNN

    cell, layers, units, taps, spacing, rows = PRESETS[preset]
    spacing = min(spacing, LONGEST)
    projection = units // 2 if cell == "lstmp" else 0
    x = torch.randint(-3000, 3000, (rows, taps * spacing), dtype=torch.int16)
    y = x[:, :spacing]
    model = FrameRNN(FrameConfig(units, layers, cell, taps=taps, spacing=spacing))
    lstm = nn.LSTM(taps, units, layers, batch_first=True, proj_size=projection)
    output, inputs = nn.Linear(projection or units, 1), model.step_inputs(x / 32768)
    parameters = [*lstm.parameters(), *output.parameters()] if plain else list(model.parameters())
    optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=2e-3, fused=not plain)
    state = model.initial_state(rows)

    def iterate() -> None:
        if plain:
            loss = nn.functional.mse_loss(output(lstm(inputs)[0])[..., 0], y / 32768)
        else:
            loss = model.loss(x, y, state)[0]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return rows * spacing * per_second(iterate)


def generation(preset: str, loss: str, is_compiled: bool) -> float:
    """Measure generation by an untrained network, with the compiled layers or with torch's."""
    from charrnn import runtime

    runtime.before_torch()
    from charrnn.engines.cpu.layer import compile_layers
    from charrnn.frames.generate import FrameStream
    from charrnn.frames.model import FrameConfig, FrameRNN

    cell, layers, units, taps, spacing, _ = PRESETS[preset]
    model = FrameRNN(FrameConfig(units, layers, cell, taps=taps, spacing=spacing, loss=loss)).eval()
    if is_compiled:
        compile_layers(model)
    stream = FrameStream(model)
    return spacing * per_second(lambda: stream.read(spacing))


def rows() -> list[Row]:
    """Return the rows of training and of generation."""
    found = []
    for preset in PRESETS:
        plain = f"training, {preset}: nn.LSTM"
        found += [
            Row(plain, partial(training, preset, True)),
            Row(f"training, {preset}", partial(training, preset, False), plain),
        ]
    for preset, loss in (("day12", "mse"), ("day12", "gaussian"), ("finale", "mse"), ("2x300, T 100", "gaussian")):
        name = f"generation, {preset}, {loss}"
        found.append(Row(f"{name}: torch's layers", partial(generation, preset, loss, False)))
        found.append(Row(f"{name}: compiled", partial(generation, preset, loss, True), f"{name}: torch's layers"))
    return found


if __name__ == "__main__":
    main(__doc__ or "", "frame predictor: samples per second", rows())
