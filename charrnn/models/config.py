"""The configuration of a network, and the shapes of its weights and of its state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from bytecodec.errors import InputError
from charrnn.data.predictor import PERIOD, PREDICTORS, Predictors, history

Array = TypeVar("Array")

CELLS = {"lstm": 4, "lstmp": 4, "lstmor": 4, "gru": 3, "rnn": 1}  # rows of a matrix per unit
PROJECTED_CELLS = ("lstmp",)
RECURRENT_OUTPUT_CELLS = ("lstmor",)
WITHOUT_FORGET_GATES = ("gru", "rnn")
FEEDBACK_LIMIT = 0.99  # of the sum of |U| in a row of a recurrent output layer
STATE_NAME = "state.{}.{}"  # name of an array of the state in files: layer, position in the layer's tuple
MAX_LAYERS = 1000
MAX_BIAS = 1e30  # fits in a float32
UNIFORM = "uniform"  # a forget bias drawn for each unit
BYTES, SILENCE_ID = 256, 128  # symbols of a vocabulary of sound, and the one of silence if it is linear
PREDICTIONS = tuple(PREDICTORS)
MAX_CONTEXT = 1024
MAX_NOISE = 100.0
LEVEL_BLOCK = 256  # samples with the same factor of the level control
LEVEL_STATE = 3  # numbers of its state; see `charrnn.engines.level`


@dataclass(frozen=True)
class ModelConfig:
    """Everything that determines the architecture of a network, and its initial values, dropout and noise."""

    vocab_size: int  # V, 1 or more
    wordvec_size: int = 110  # D, the length of an embedding
    rnn_size: int = 680  # H, the hidden size
    layers: int = 3  # the number of recurrent layers
    cell: str = "lstm"  # a name in `CELLS`
    dropout: float = 0.0  # probability of dropping each output of each layer during training, in [0, 1)
    forget_bias: float | str = 1.0  # initial bias of forget gates; "uniform" draws it from U(0, 1) for each unit
    proj_size: int | None = None  # P, the output size of an lstmp layer, less than H (None: half of H)
    layer_norm: bool = False  # whether each layer's output, but not its state, is normalised (Ba et al. 2016)
    context: int = 0  # K, the samples before the last symbol that are also read as numbers; linear sound only
    prediction: str = "none"  # predictors whose predictions are read, and the mean of the output; linear sound only
    noise: float = 0.0  # largest amplitude of disturbances in training, relative to the level of the samples before

    def __post_init__(self) -> None:
        check_whole(self, "vocab_size", "wordvec_size")
        check_layers(self)
        _check_samples(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ModelConfig:
        """Return the configuration of a config.json or checkpoint; raise TypeError for a missing or unknown field."""
        fields = dict(stored)
        fields.pop("light_tails", None)  # of networks with predictions in format 2
        return cls(**fields)

    @property
    def reads_samples(self) -> bool:
        """Whether the network reads samples as numbers, which it has to keep in its state."""
        return self.context > 0 or self.prediction != "none"

    @property
    def predictors(self) -> Predictors:
        """The predictors of the samples."""
        return PREDICTORS[self.prediction]

    def to_json(self) -> dict[str, Any]:
        """Return the fields to store in config.json and checkpoints."""
        return asdict(self)


def _check_samples(config: ModelConfig) -> None:
    """Raise a ValueError if the settings of a network that reads samples as numbers are impossible."""
    if type(config.context) is not int or not 0 <= config.context <= MAX_CONTEXT:
        raise ValueError(f"context is {config.context!r}, and must be a whole number from 0 to {MAX_CONTEXT}")
    if config.prediction not in PREDICTIONS:
        raise ValueError(f"prediction is {config.prediction!r}, and must be one of {', '.join(PREDICTIONS)}")
    noise = config.noise
    if not isinstance(noise, int | float) or isinstance(noise, bool) or not 0 <= noise <= MAX_NOISE:
        raise ValueError(f"noise is {noise!r}, and must be a number from 0 to {MAX_NOISE:g}")
    if noise and not config.reads_samples:
        raise ValueError(f"noise is {noise!r}, and must be 0 for a network without context and prediction")
    if config.reads_samples and config.vocab_size != BYTES:
        raise ValueError(f"context and prediction are for sound of {BYTES} symbols, not {config.vocab_size}")


def check_whole(config: object, *names: str) -> None:
    """Raise a ValueError if one of these attributes is not a whole number of 1 or more."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}, and must be a whole number of 1 or more")


def check_layers(config: Any) -> None:
    """Raise a ValueError if a configuration's layers are impossible; set the default of ``proj_size``.

    The configuration has the attributes of `ModelConfig` from ``rnn_size`` on.
    """
    check_whole(config, "rnn_size", "layers")
    if config.layers > MAX_LAYERS:
        raise ValueError(f"layers is {config.layers}, and must be at most {MAX_LAYERS}")
    if not isinstance(config.layer_norm, bool):
        raise ValueError(f"layer_norm is {config.layer_norm!r}, and must be true or false")
    if not isinstance(config.cell, str) or config.cell not in CELLS:
        raise ValueError(f"cell is {config.cell!r}, and must be one of {', '.join(CELLS)}")
    if not isinstance(config.dropout, int | float) or not 0 <= config.dropout < 1:
        raise ValueError(f"dropout is {config.dropout!r}, and must be at least 0 and less than 1")
    bias = config.forget_bias
    if bias != UNIFORM and not (isinstance(bias, int | float) and -MAX_BIAS <= bias <= MAX_BIAS):
        raise ValueError(f"forget_bias is {bias!r}, and must be a number from -1e30 to 1e30, or {UNIFORM!r}")
    projects = config.cell in PROJECTED_CELLS
    if config.proj_size is None and projects:
        object.__setattr__(config, "proj_size", max(1, config.rnn_size // 2))
    size = config.proj_size
    if size is not None and not projects:
        raise ValueError(f"proj_size is {size!r}, and {config.cell} has no projection")
    if size is not None and (type(size) is not int or not 1 <= size < config.rnn_size):
        raise ValueError(
            f"proj_size is {size!r}, and must be a whole number from 1 to less than rnn_size, {config.rnn_size}"
        )


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights that a checkpoint stores, by name, without those that are always zero."""
    v, h, gates = config.vocab_size, config.rnn_size, CELLS[config.cell]
    size, out = config.wordvec_size + sample_inputs(config), config.proj_size or h
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (v, config.wordvec_size)}
    for i in range(config.layers):
        layer = f"layers.{i}."
        shapes |= {
            f"{layer}weight_ih_l0": (gates * h, size),
            f"{layer}weight_hh_l0": (gates * h, out),
            f"{layer}bias_ih_l0": (gates * h,),
        }
        if config.cell == "gru":
            shapes[f"{layer}bias_hh_l0"] = (gates * h,)
        if config.cell in PROJECTED_CELLS:
            shapes[f"{layer}weight_hr_l0"] = (out, h)
        if config.layer_norm:
            shapes |= {f"norms.{i}.weight": (out,), f"norms.{i}.bias": (out,)}
        size = out
    shapes |= {"output.weight": (v, out), "output.bias": (v,)}
    if config.cell in RECURRENT_OUTPUT_CELLS:
        shapes["output.recurrent_weight"] = (v, v)
    if config.predictors:
        corrections = sample_corrections(config)
        shapes |= {"logistic.correction.weight": (corrections, out), "logistic.correction.bias": (corrections,)}
    return shapes


def sample_corrections(config: ModelConfig) -> int:
    """Return how many numbers of the last layer determine the distribution around the predictions."""
    return 2 + len(config.predictors)


def sample_inputs(config: ModelConfig) -> int:
    """Return how many numbers the first layer reads besides the embedding; `charrnn.models.samples` has the list."""
    return config.context + 3 * len(config.predictors)


def sample_history(config: ModelConfig) -> int:
    """Return the number of past samples in the state of a network that reads samples."""
    return max(config.context, history(config.predictors))


def check_samples(config: ModelConfig, state: Sequence[Sequence[Any]]) -> None:
    """Raise a ValueError if the samples of a hidden state, or what belongs to them, are not in their ranges."""
    if config.reads_samples:
        samples, phase, *noise = state[-1]
        if not (is_whole(samples, -128, 127) and is_whole(phase, 0, PERIOD - 1)):
            raise ValueError("the samples of the state are not whole numbers in their range")
        if noise:
            disturbance, own = map(np.asarray, noise)
            finite = np.isfinite(disturbance).all() and np.isfinite(own).all()
            if not (finite and (own[:, :2] >= 0).all() and is_whole(own[:, 2:], -128, 127)):
                raise ValueError("the disturbances or the own sound of the state are not in their range")


def check_stream(config: ModelConfig, state: Sequence[Sequence[Any]]) -> None:
    """Raise a ValueError if the state of streams, with that of the level control, is not in its range."""
    if config.predictors:
        check_level(state[-1][0])
    check_samples(config, state[: len(hidden_sizes(config))])


def check_level(values: Any) -> None:
    """Raise a ValueError if an array (N, `LEVEL_STATE`) is not a state of `charrnn.engines.level.LevelControl`."""
    ratio, squares, count = np.asarray(values).T
    if not (
        (ratio >= -1).all() and is_whole(squares, 0, count * SILENCE_ID**2) and is_whole(count, 0, LEVEL_BLOCK - 1)
    ):
        raise ValueError("the level of the state is not in its range")


def is_whole(values: Any, least: Any, greatest: Any) -> bool:
    """Return whether all values are whole numbers from the least to the greatest."""
    array = np.asarray(values)
    return bool(((array == np.rint(array)) & (array >= least) & (array <= greatest)).all())


def check_finite(weights: Mapping[str, Any], source: object = "the network") -> None:
    """Raise InputError, which begins with the source, if an array or tensor has a value that is not finite."""
    for name, weight in weights.items():
        if not np.isfinite(np.asarray(weight)).all():
            raise InputError(
                f"{source}: {name} has numbers that are not finite. "
                "Use an earlier checkpoint, or train again with a lower --learning-rate."
            )


def state_sizes(config: ModelConfig) -> tuple[tuple[int, ...], ...]:
    """Return the row lengths of the arrays of a stream's state: the hidden state, and that of the level control."""
    return (*hidden_sizes(config), (LEVEL_STATE,)) if config.predictors else hidden_sizes(config)


def hidden_sizes(config: ModelConfig) -> tuple[tuple[int, ...], ...]:
    """Return the row lengths of the hidden state's arrays: per layer, of a recurrent output layer, and of the samples.

    The latter are the last samples and their phase, which `charrnn.models.samples` explains.
    """
    out = config.proj_size or config.rnn_size
    layer = (out, config.rnn_size) if CELLS[config.cell] == 4 else (out,)
    sizes: tuple[tuple[int, ...], ...] = (layer,) * config.layers
    if config.cell in RECURRENT_OUTPUT_CELLS:
        sizes += ((config.vocab_size,),)
    if config.reads_samples:
        sizes += ((sample_history(config), 1),)
    return sizes


def state_shapes(config: ModelConfig, streams: int) -> dict[str, tuple[int, int]]:
    """Return the shapes of the state's arrays by their names in files."""
    return {name: (streams, size) for name, size in named_state(state_sizes(config)).items()}


def named_state(state: Iterable[Iterable[Array]]) -> dict[str, Array]:
    """Return the arrays of a state, or values of each, by the arrays' names in files."""
    return {STATE_NAME.format(i, j): array for i, layer in enumerate(state) for j, array in enumerate(layer)}


def map_state(function: Callable[..., Array], *states: Iterable[Iterable[Any]]) -> tuple[tuple[Array, ...], ...]:
    """Return the state of the function's results for each array of a state, or for those of several states."""
    return tuple(tuple(map(function, *layers)) for layers in zip(*states, strict=True))


def state_of(arrays: Mapping[str, Array], like: Iterable[Iterable[Any]]) -> tuple[tuple[Array, ...], ...]:
    """Return the state of named arrays, with as many layers and arrays as another state."""
    layers = enumerate(like)
    return tuple(tuple(arrays[STATE_NAME.format(i, j)] for j, _ in enumerate(layer)) for i, layer in layers)
