"""The network's own sound in training, which keeps its level and its spectrum in free running.

A network that reads what it has drawn reaches states to which no recording leads: too loud, a whistle, silence without
an end. In each of them it draws what follows by its own account, and stays there. So N streams of its own sound, one
for each row of training, go on during the whole training, and every `EVERY` samples a row continues one of them: it
begins in the stream's state, and reads the stream's next samples while they fade into the recording. So it learns to
return to the recording from wherever it is. Training on states that the network itself has reached is the idea of
DAgger (Ross, Gordon and Bagnell 2011); streams that go on while the weights change are that of persistent contrastive
divergence (Tieleman 2008).
"""

from __future__ import annotations

import numpy as np
import torch

from charrnn.engines.base import Engine
from charrnn.engines.cpu.engine import CpuEngine
from charrnn.engines.cpu.library import UnavailableError
from charrnn.engines.eager import EagerEngine
from charrnn.models.char_rnn import CharRNN, State
from charrnn.models.config import MIDDLE, state_sizes
from charrnn.models.samples import OWN_SAMPLES
from charrnn.sampling.generate import uniforms
from charrnn.storage.checkpoint import model_tensors, set_model_tensors

EVERY = 5000  # samples of a row from one beginning to the next
FROM_SILENCE = 16  # of so many beginnings, one is from silence, as that of a stream in sampling
FADE_SAMPLES = (100, OWN_SAMPLES)  # least and greatest length of a fade


def rows_to_begin(position: int, steps: int, rows: int) -> list[int]:
    """Return which of a number of rows begin anew at a position, before they read a number of steps."""
    return [row for row in range(rows) if (position + EVERY * row // rows) % EVERY < steps]


class OwnSound:
    """Streams of a network's own sound for the rows ``own`` of training.

    Their state is that of the streams before their last piece and after it, as engines have it with the last symbols,
    and the pieces, (N, `OWN_SAMPLES`) from -128 to 127. It is kept in the training's state, since it is saved.
    """

    def __init__(self, model: CharRNN, own: slice, seed: int) -> None:
        self._model, self._rows, self._seed = model, range(own.start, own.stop), seed

    def initial_state(self, n: int) -> State:
        """Return the state of n streams before they have begun."""
        sizes = state_sizes(self._model.config)

        def stream() -> State:
            zeros = tuple(tuple(torch.zeros(n, size) for size in layer) for layer in sizes)
            return (*zeros, (torch.full((n, 1), float(MIDDLE)),))

        return (*stream(), *stream(), (torch.zeros(n, OWN_SAMPLES),))

    def draws(self, position: int) -> bool:
        """Return whether the network draws its own sound: not if it is trained without noise, or has hardly begun."""
        return self._model.config.noise > 0 and position >= EVERY

    def draw(self, state: State, position: int) -> State:
        """Return the state after the next piece of each stream, drawn at temperature 1 with the network's weights."""
        depth = len(state) // 2
        before = [[tensor.numpy().copy() for tensor in layer] for layer in state[depth:-1]]
        for k, row in enumerate(self._rows):
            if self._begins_from_silence(row, position):
                for array in (array for layer in before for array in layer):
                    array[k] = 0
                before[-1][0][k] = MIDDLE
        *streams, (last,) = before
        engine = self._engine()
        engine.set_state(tuple(map(tuple, streams)), last[:, 0].astype(np.int64))
        first = position // EVERY * OWN_SAMPLES
        u = np.stack([uniforms(self._seed, row, first, OWN_SAMPLES) for row in self._rows], axis=1)
        piece = engine.run(u, 1.0) - MIDDLE
        after, after_last = engine.get_state()
        arrays = (*before, *after, (after_last[:, None],), (piece,))
        return tuple(tuple(torch.from_numpy(array.astype(np.float32)) for array in layer) for layer in arrays)

    def begin(self, state: State, hidden: State, row: int, position: int) -> None:
        """Let a row of training continue its stream: change the row's hidden state to the one before the last piece."""
        depth, k = len(state) // 2, row - self._rows.start
        for tensor in (tensor for layer in hidden for tensor in layer):
            tensor[k] = 0
        if self._begins_from_silence(row, position) or not self.draws(position):
            return
        for target, source in zip(hidden, state[:depth], strict=False):
            for tensor, values in zip(target, source, strict=False):
                tensor[k] = values[k]
        last, piece = state[depth - 1][0][k] - MIDDLE, state[-1][0][k]
        least, greatest = FADE_SAMPLES
        length = least * (greatest / least) ** np.random.default_rng((self._seed, position, row)).random()
        hidden[-1][-1][k] = torch.cat([torch.tensor([0, length]), last, piece])

    def _begins_from_silence(self, row: int, position: int) -> bool:
        return (position // EVERY + row) % FROM_SILENCE == 0

    def _engine(self) -> Engine:
        """Return an engine of the network with its present weights: the compiled one, or else the eager one."""
        weights = {name: tensor.detach().float().cpu() for name, tensor in model_tensors(self._model).items()}
        streams, config = len(self._rows), self._model.config
        try:
            arrays = {name: tensor.numpy() for name, tensor in weights.items()}
            return CpuEngine(arrays, config, streams, threads=torch.get_num_threads())
        except UnavailableError:
            copy = CharRNN(config)
            set_model_tensors(copy, weights)
            return EagerEngine(copy, streams)
