"""Stacked recurrent layers with an output layer, and the character network, which adds an embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.data.vocab import Vocab
from charrnn.models.cells import CELLS, OUTPUTS, CellState, Linear
from charrnn.models.config import SILENCE_ID, ModelConfig, check_samples, sample_history, sample_inputs
from charrnn.models.samples import LogisticOutput, SampleReader

IGNORED = -1  # target that is not part of the loss
MAX_ONE_HOT = 1 << 25  # numbers of one-hot rows for a training batch on a GPU, 128 MiB
WIDTHS = (2, 4, 8, 16, 32, 64, 128)  # of the kernels of smooth initial weights, in ids

# Limits of one evaluation pass. Larger ones are not faster, and can need more memory than a training step.
MAX_LOGITS = 1 << 22  # 16 MiB in fp32
MAX_GATES = 1 << 24  # numbers inside a recurrent layer, 64 MiB

State = tuple[CellState, ...]  # one per layer, and one of the output layer if that is recurrent


class Layers(nn.Module):
    """Stacked recurrent layers and an output layer: a network without its input layer.

    N streams, T steps, D inputs, V outputs, H units. The state is an argument and a result, never an attribute.
    """

    config: Any
    layers: Any  # of one class of charrnn.models.cells
    output: Any  # nn.Linear, or a class of charrnn.models.cells.OUTPUTS

    def stack(self, config: Any, input_size: int, output_size: int) -> None:
        """Create the layers."""
        self.config, self.input_size, self.output_size = config, input_size, output_size
        cell = CELLS[config.cell]
        options = {name: getattr(config, name) for name in cell.OPTIONS}
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()  # one per layer; nn.Identity without normalisation
        size = input_size
        for _ in range(config.layers):
            self.layers.append(cell(size, config.rnn_size, **options))
            size = self.layers[-1].output_size
            self.norms.append(nn.LayerNorm(size) if config.layer_norm else nn.Identity())
        self.dropout = nn.Dropout(config.dropout)
        # Weight and bias of both kinds of output layer are drawn from U(-1/sqrt(size), 1/sqrt(size)).
        self.output = OUTPUTS.get(config.cell, nn.Linear)(size, output_size)

    def initial_state(self, n: int, training: bool = False) -> State:
        """Return the zero state of n streams, in training with that of disturbances and own sound."""
        recurrent = [*self.layers, self.output] if self.config.cell in OUTPUTS else self.layers
        return tuple(part.initial_state(n) for part in recurrent)

    def state_after(self, ids: Tensor) -> State:
        """Return the state of N streams that begin after ids (N, `history`): the zero state, and those as samples."""
        return self.initial_state(len(ids))

    def check_state(self, state: State) -> None:
        """Raise a ValueError if a state from a file, of the right shapes, has impossible values."""

    def run(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Return outputs (N, T, V) and those of the last layer (N, T, H) for inputs (N, T, D), and the state."""
        depth = len(self.layers)
        new_state = []
        for layer, norm, layer_state in zip(self.layers, self.norms, state[:depth], strict=True):
            x, layer_state = layer(x, layer_state)
            x = self.dropout(norm(x))  # (N, T, H), of an lstmp (N, T, P)
            new_state.append(layer_state)
        if self.config.cell in OUTPUTS:
            y, output_state = self.output(x, *state[depth:])
            return y, x, (*new_state, output_state)
        return self.output(x), x, tuple(new_state)

    def run_step(self, x: Tensor, state: State, linear: Linear) -> tuple[Tensor, Tensor, State]:
        """Return what `run` returns for one step, x (N, D), without the dimension of time and without dropout."""
        depth = len(self.layers)
        new_state = []
        for layer, norm, layer_state in zip(self.layers, self.norms, state[:depth], strict=True):
            x, layer_state = layer.step(x, layer_state, linear)
            x = norm(x)
            new_state.append(layer_state)
        if self.config.cell in OUTPUTS:
            y, output_state = self.output.step(x, *state[depth:], linear)
            return y, x, (*new_state, output_state)
        return linear(x, self.output.weight, self.output.bias), x, tuple(new_state)

    def loss(self, x: Tensor, y: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the mean loss of targets y (N, T) for inputs x, and the state after them."""
        raise NotImplementedError

    history = 0  # samples that are part of the state

    @property
    def uses_randomness(self) -> bool:
        """Whether training draws random numbers."""
        return bool(self.config.dropout)

    def max_symbols(self) -> int:
        """Return the number of symbols (rows times steps, at least 1) to score at once, which limits memory."""
        gates: int = max(self.input_size, 4 * self.config.rnn_size)
        return max(1, min(MAX_LOGITS // self.output_size, MAX_GATES // gates))

    def number_of_parameters(self) -> int:
        """Return the number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


class CharRNN(Layers):
    """A character network with torch-rnn's architecture and initial values.

    N streams, T steps, V symbols, embeddings of D, H units. The state is an argument and a result, never an attribute.
    """

    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.vocab: Vocab | None = None  # set by a checkpoint
        self.embedding = nn.Embedding(config.vocab_size, config.wordvec_size)  # from normal(0, 1)
        self.samples = SampleReader(config) if config.reads_samples else None
        self.stack(config, config.wordvec_size + sample_inputs(config), config.vocab_size)
        self.history = sample_history(config) if config.reads_samples else 0
        predictors = len(config.predictors)
        self.logistic = LogisticOutput(config, self.output.in_features) if predictors else None

    @property
    def uses_randomness(self) -> bool:
        return super().uses_randomness or self.config.noise > 0

    def initial_state(self, n: int, training: bool = False) -> State:
        """Return the zero state of n streams, which have read silence; in training also of what disturbs them."""
        state = super().initial_state(n)
        return (*state, self.samples.initial_state(self.output.weight, n, training)) if self.samples else state

    def state_after(self, ids: Tensor) -> State:
        state = self.initial_state(len(ids))
        if self.samples:
            state[-1][0].copy_(ids - SILENCE_ID)
        return state

    def check_state(self, state: State) -> None:
        check_samples(self.config, state)

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the logits (N, T, V) of the symbol after each of ids (N, T), and the state after them."""
        if not self.samples:
            logits, _, state = self.run(self._embed(ids), state)
            return logits, state
        numbers, predictions, samples = self.samples.read(ids, state[-1])
        logits, h, state = self.run(torch.cat([self._embed(ids), numbers], dim=2), state[:-1])
        if self.logistic:
            logits = self.logistic(logits, self.logistic.correction(h), predictions)
        return logits, (*state, samples)

    def _embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings (N, T, D) of ids (N, T)."""
        weight = self.embedding.weight
        if self.training and ids.is_cuda and ids.numel() * len(weight) <= MAX_ONE_HOT:
            return one_hot_embedding(ids, weight)
        return functional.embedding(ids, weight)

    def loss(self, x: Tensor, y: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the mean cross-entropy in nats per symbol of y (N, T), the symbols after x (N, T), and the state.

        With noise, training disturbs both, and the loss is without the disturbed symbols; it is 0 if all are.
        """
        if self.samples and self.training and self.config.noise:
            ids, disturbed, samples = self.samples.disturb(torch.cat([x, y[:, -1:]], dim=1), state[-1])
            x, y, state = ids[:, :-1], ids[:, 1:].masked_fill(disturbed[:, 1:], IGNORED), (*state[:-1], samples)
        logits, state = self(x, state)
        logits, targets = logits.flatten(0, 1).float(), y.flatten()
        total = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum().clamp(min=1), state

    def step(self, ids: Tensor, state: State, linear: Linear = functional.linear) -> tuple[Tensor, State]:
        """Return the logits (N, V) after one symbol of each stream, ids (N,), and the state; without dropout."""
        x = self.embedding(ids)  # (N, D)
        if not self.samples:
            logits, _, state = self.run_step(x, state, linear)
            return logits, state
        numbers, predictions, samples = self.samples.read(ids[:, None], state[-1])
        logits, h, state = self.run_step(torch.cat([x, numbers[:, 0]], dim=1), state[:-1], linear)
        if self.logistic:
            correction = linear(h, self.logistic.correction.weight, self.logistic.correction.bias)
            logits = self.logistic(logits[:, None], correction[:, None], predictions)[:, 0]
        return logits, (*state, samples)


def one_hot_embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Return the embeddings (N, T, D) of ids (N, T) as a product of one-hot rows and a weight (V, D).

    Its gradient is also a product, which is faster on a GPU than torch's kernel for the gradient of an embedding.
    """
    symbols = torch.arange(len(weight), device=ids.device)
    with torch.autocast(ids.device.type, enabled=False):
        return (ids[..., None] == symbols).to(weight.dtype) @ weight


def copy_state(source: State, target: State) -> None:
    """Copy a state into the tensors of another one, which may be the same."""
    for layer, target_layer in zip(source, target, strict=True):
        for tensor, target_tensor in zip(layer, target_layer, strict=True):
            if tensor is not target_tensor:
                target_tensor.copy_(tensor)


def build(config: ModelConfig, seed: int, smooth_init: bool = False) -> CharRNN:
    """Return a new network whose initial values depend on the seed only.

    With ``smooth_init`` the rows of embedding and output are initialised as smooth functions of the id, instead of
    independently as in torch-rnn. If ids are amplitudes, an update for one id then also applies to its neighbours.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CharRNN(config)
        if smooth_init:
            _fill_smooth(model.embedding.weight, 1.0)
            _fill_smooth(model.output.weight, (3 * model.output.in_features) ** -0.5)  # as without smooth_init
        return model


@torch.no_grad()
def _fill_smooth(weight: Tensor, std: float) -> None:
    """Fill each column of a matrix (V, M) with a random smooth function of the V ids.

    A column is white noise convolved with a Gaussian, that is, a sample of a Gaussian process with the kernel
    exp(-(i - j)^2 / 2 w^2) and width w (Rasmussen and Williams 2006). Each width has an equal share of the columns.
    """
    ids = torch.arange(weight.shape[0])
    margin = 3 * max(WIDTHS)  # noise before the first id and after the last
    positions = torch.arange(-margin, weight.shape[0] + margin)
    for width, columns in zip(WIDTHS, weight.tensor_split(len(WIDTHS), dim=1), strict=True):
        filters = torch.exp(-(((ids[:, None] - positions) / width) ** 2))  # (V, positions)
        filters *= std / filters.norm(dim=1, keepdim=True)
        columns.copy_(filters @ torch.randn(len(positions), columns.shape[1]))
