"""What says what a network is, and what follows from it: the shapes of its weights and of its state."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

CELLS = {
    "lstm": 4,
    "lstmp": 4,
    "lstmor": 4,
    "gru": 3,
    "rnn": 1,
}  # charrnn.models.cells has them; how many rows each unit has
PROJECTED_CELLS = ("lstmp",)
RECURRENT_OUTPUT_CELLS = ("lstmor",)  # whose output layer is recurrent, too
MOST_LAYERS = 1000
MOST_BIAS = 1e30  # within a float32
UNIFORM = "uniform"  # a forget bias of its own for each unit


@dataclass(frozen=True)
class ModelConfig:
    """All that says what a network is.

    Attributes
    ----------
    vocab_size
        V, the number of different symbols, 1 or more.
    wordvec_size
        D, the length of an embedding.
    rnn_size
        H, the units of a layer.
    layers
        The number of recurrent layers.
    cell
        A name in `CELLS`.
    dropout
        The probability with which each output of each layer is dropped while training, in [0, 1).
    forget_bias
        The initial bias of the forget gates, of cells that have them; "uniform": from U(0, 1), for each unit its own.
    proj_size
        P, the numbers that an lstmp layer hands on, less than H (None: half of H). None for every other cell.
    layer_norm
        Whether what a layer hands on, above it, is normalised (Ba, Kiros and Hinton 2016); its state is not.
    """

    vocab_size: int
    wordvec_size: int = 110
    rnn_size: int = 680
    layers: int = 3
    cell: str = "lstm"
    dropout: float = 0.0
    forget_bias: float | str = 1.0
    proj_size: int | None = None
    layer_norm: bool = False

    def __post_init__(self) -> None:
        check_whole(self, "vocab_size", "wordvec_size")
        check_layers(self)

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return asdict(self)


def check_whole(config: object, *names: str) -> None:
    """Raise a ValueError where one of these is no whole number above 0."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}, and has to be a whole number of 1 or more")


def check_layers(config: Any) -> None:
    """Raise a ValueError where a config's layers make no network; a projection's size that is left out is settled.

    Of a config it takes what `ModelConfig` has from ``rnn_size`` on, with the same meanings.
    """
    check_whole(config, "rnn_size", "layers")
    if config.layers > MOST_LAYERS:
        raise ValueError(f"layers is {config.layers}, and {MOST_LAYERS} is the most")
    if not isinstance(config.layer_norm, bool):
        raise ValueError(f"layer_norm is {config.layer_norm!r}, and has to be true or false")
    if not isinstance(config.cell, str) or config.cell not in CELLS:
        raise ValueError(f"cell is {config.cell!r}, and has to be one of {', '.join(CELLS)}")
    if not isinstance(config.dropout, int | float) or not 0 <= config.dropout < 1:
        raise ValueError(f"dropout is {config.dropout!r}, and has to be at least 0 and less than 1")
    bias = config.forget_bias
    if bias != UNIFORM and not (isinstance(bias, int | float) and -MOST_BIAS <= bias <= MOST_BIAS):
        raise ValueError(f"forget_bias is {bias!r}, and has to be a number within 1e30, or {UNIFORM!r}")
    projects = config.cell in PROJECTED_CELLS
    if config.proj_size is None and projects:
        object.__setattr__(config, "proj_size", max(1, config.rnn_size // 2))
    size = config.proj_size
    if size is not None and not projects:
        raise ValueError(f"proj_size is {size!r}, and {config.cell} has no projection")
    if size is not None and (type(size) is not int or not 1 <= size < config.rnn_size):
        raise ValueError(
            f"proj_size is {size!r}, and has to be a whole number from 1 to less than rnn_size, {config.rnn_size}"
        )


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The weights that a file keeps of a network, by name: all but those that are zero for ever."""
    v, h, gates = config.vocab_size, config.rnn_size, CELLS[config.cell]
    size, out = config.wordvec_size, config.proj_size or h
    found: dict[str, tuple[int, ...]] = {"embedding.weight": (v, size)}
    for i in range(config.layers):
        layer = f"layers.{i}."
        found |= {
            f"{layer}weight_ih_l0": (gates * h, size),
            f"{layer}weight_hh_l0": (gates * h, out),
            f"{layer}bias_ih_l0": (gates * h,),
        }
        if config.cell == "gru":
            found[f"{layer}bias_hh_l0"] = (gates * h,)
        if config.cell in PROJECTED_CELLS:
            found[f"{layer}weight_hr_l0"] = (out, h)
        if config.layer_norm:
            found |= {f"norms.{i}.weight": (out,), f"norms.{i}.bias": (out,)}
        size = out
    found |= {"output.weight": (v, out), "output.bias": (v,)}
    if config.cell in RECURRENT_OUTPUT_CELLS:
        found["output.recurrent_weight"] = (v, v)
    return found


def state_sizes(config: ModelConfig) -> tuple[tuple[int, ...], ...]:
    """How long the arrays of a stream's state are: per layer, and of a recurrent output layer."""
    handed_on = config.proj_size or config.rnn_size
    layer = (handed_on, config.rnn_size) if CELLS[config.cell] == 4 else (handed_on,)
    return (layer,) * config.layers + (((config.vocab_size,),) if config.cell in RECURRENT_OUTPUT_CELLS else ())
