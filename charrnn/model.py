"""Stacked recurrent layers under an output layer, and the character network, which is these over an embedding."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.cells import CELLS, OUTPUTS, UNIFORM, CellState, Linear
from charrnn.vocab import Vocab

WIDTHS = (2, 4, 8, 16, 32, 64, 128)  # ids over which the functions vary that a smooth network begins with
MOST_LAYERS = 1000
MOST_BIAS = 1e30  # within a float32

State = tuple[CellState, ...]  # one a layer, and one of the output layer where that is recurrent


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
        A name in `charrnn.cells.CELLS`.
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
    projects = "proj_size" in CELLS[config.cell].OPTIONS
    if config.proj_size is None and projects:
        object.__setattr__(config, "proj_size", max(1, config.rnn_size // 2))
    size = config.proj_size
    if size is not None and not projects:
        raise ValueError(f"proj_size is {size!r}, and {config.cell} has no projection")
    if size is not None and (type(size) is not int or not 1 <= size < config.rnn_size):
        raise ValueError(
            f"proj_size is {size!r}, and has to be a whole number from 1 to less than rnn_size, {config.rnn_size}"
        )


class Layers(nn.Module):
    """Recurrent layers, one above the other, and an output layer: all of a network but what it makes of its input.

    N streams, T steps, D numbers in, V out, H units. The state is an argument and a result, never kept.
    """

    config: Any
    layers: Any  # of one class of charrnn.cells
    output: Any  # nn.Linear, or what charrnn.cells.OUTPUTS has instead

    def stack(self, config: Any, input_size: int, output_size: int) -> None:
        """Make the layers."""
        self.config = config
        cell = CELLS[config.cell]
        options = {name: getattr(config, name) for name in cell.OPTIONS}
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()  # one a layer, which do nothing where there is no normalisation
        size = input_size
        for _ in range(config.layers):
            self.layers.append(cell(size, config.rnn_size, **options))
            size = self.layers[-1].output_size
            self.norms.append(nn.LayerNorm(size) if config.layer_norm else nn.Identity())
        self.dropout = nn.Dropout(config.dropout)
        # The weight and bias of either kind of output layer are from uniform(-1/sqrt(size), 1/sqrt(size)).
        self.output = OUTPUTS.get(config.cell, nn.Linear)(size, output_size)

    def initial_state(self, n: int) -> State:
        """The zero state of n streams."""
        recurrent = [*self.layers, self.output] if self.config.cell in OUTPUTS else self.layers
        return tuple(part.initial_state(n) for part in recurrent)

    def run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Outputs (N, T, V) for inputs (N, T, D), and the state after the last of them."""
        new_state = []
        depth = len(self.layers)
        for layer, norm, layer_state in zip(self.layers, self.norms, state[:depth], strict=True):
            x, layer_state = layer(x, layer_state)  # (N, T, H), of an lstmp (N, T, P)
            x = self.dropout(norm(x))
            new_state.append(layer_state)
        if self.config.cell in OUTPUTS:
            y, output_state = self.output(x, *state[depth:])
            return y, (*new_state, output_state)
        return self.output(x), tuple(new_state)

    def loss(self, x: Tensor, y: Tensor, state: State) -> tuple[Tensor, State]:
        """The mean loss of targets y (N, T), and the state after them: what makes each network the one that it is."""
        raise NotImplementedError

    def number_of_parameters(self) -> int:
        """How many numbers it learns."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


class CharRNN(Layers):
    """A character network with torch-rnn's shape and initial values.

    N streams, T steps, V symbols, D long embeddings, H units. The state is an argument and a result, never kept.
    """

    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.vocab: Vocab | None = None  # what the ids mean, once a checkpoint says so
        self.embedding = nn.Embedding(config.vocab_size, config.wordvec_size)  # from normal(0, 1)
        self.stack(config, config.wordvec_size, config.vocab_size)

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits (N, T, V) of the symbol after each of ids (N, T), and the state after the last of them."""
        return self.run(self.embedding(ids), state)

    def loss(self, x: Tensor, y: Tensor, state: State) -> tuple[Tensor, State]:
        """Mean cross-entropy in nats a symbol of the symbols y (N, T) that follow x (N, T), and the state after."""
        logits, state = self(x, state)
        return functional.cross_entropy(logits.flatten(0, 1).float(), y.flatten()), state

    def step(self, ids: Tensor, state: State, linear: Linear = functional.linear) -> tuple[Tensor, State]:
        """Logits (N, V) after one symbol of each stream, ids (N,), and the state; without dropout."""
        x = self.embedding(ids)  # (N, D)
        new_state = []
        depth = len(self.layers)
        for layer, norm, layer_state in zip(self.layers, self.norms, state[:depth], strict=True):
            x, layer_state = layer.step(x, layer_state, linear)
            x = norm(x)
            new_state.append(layer_state)
        if self.config.cell in OUTPUTS:
            logits, output_state = self.output.step(x, *state[depth:], linear)
            return logits, (*new_state, output_state)
        return linear(x, self.output.weight, self.output.bias), tuple(new_state)


def detach(state: State) -> State:
    """The same state, through which no gradient flows back."""
    return tuple(tuple(tensor.detach() for tensor in layer) for layer in state)


def build(config: ModelConfig, seed: int, smooth: bool = False) -> CharRNN:
    """A new network whose initial values hang on the seed alone.

    Parameters
    ----------
    smooth
        For ids that are amounts, as a sample's bytes are: the rows of embedding and output begin as smooth functions
        of the id, instead of as independent as torch-rnn's, so that what is learnt of one amount holds for its
        neighbours from the first iteration.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CharRNN(config)
        if smooth:
            _smooth(model.embedding.weight, 1.0)
            _smooth(model.output.weight, (3 * model.output.in_features) ** -0.5)  # the deviation that it had
        return model


@torch.no_grad()
def _smooth(weight: Tensor, deviation: float) -> None:
    """Fill each column of a matrix (V, M) with a random smooth function of the V ids.

    A column is white noise under a Gaussian filter, which makes it a sample of a Gaussian process with the kernel
    exp(-(i - j)^2 / 2 w^2) (Rasmussen and Williams 2006), w its width. An equal share of the columns has each width.
    """
    ids = torch.arange(weight.shape[0])
    beyond = 3 * max(WIDTHS)  # there is noise before the first id and after the last, too
    places = torch.arange(-beyond, weight.shape[0] + beyond)
    for width, columns in zip(WIDTHS, weight.tensor_split(len(WIDTHS), dim=1), strict=True):
        filters = torch.exp(-(((ids[:, None] - places) / width) ** 2))  # (V, places)
        filters *= deviation / filters.norm(dim=1, keepdim=True)
        columns.copy_(filters @ torch.randn(len(places), columns.shape[1]))
