"""The network's own sound in training, which keeps its level and its spectrum in free running.

A network that reads its own output reaches states that do not occur in recordings: too loud, a whistle, endless
silence. It has not learnt to leave them. So N streams, one per row of training, are drawn throughout training. Every
`EVERY` samples a row starts anew from its stream's state, and reads the stream's next samples while they fade into the
recording. The network thus learns to return to the recording. Training on states that the network itself has reached
is the idea of DAgger (Ross, Gordon and Bagnell 2011); streams that continue while the weights change are that of
persistent contrastive divergence (Tieleman 2008).
"""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch

from bytecodec.console import log
from charrnn.engines.cpu.autotune import MAX_THREADS
from charrnn.engines.cpu.engine import CpuEngine
from charrnn.engines.cpu.library import UnavailableError
from charrnn.models.char_rnn import CharRNN, State
from charrnn.models.config import BYTES, MIDDLE, check_level, check_samples, hidden_sizes, is_whole, state_sizes
from charrnn.models.samples import OWN_SAMPLES
from charrnn.sampling.generate import uniforms
from charrnn.storage.checkpoint import model_tensors

EVERY = 2500  # samples of a row from one start to the next, rounded to whole batches
FROM_SILENCE = 16  # of so many starts, one is from silence, as that of a stream in sampling
FADE_SAMPLES = (100, OWN_SAMPLES)  # least and greatest length of a fade


class OwnSound:
    """Streams of a network's own sound for the rows ``own`` of ``rows`` of training, in batches of a number of steps.

    Their state is kept with the training's, in whose file it is: the states of the streams and their last symbols
    before the last piece, the same after it, and the pieces (N, `OWN_SAMPLES`) from -128 to 127. Without noise there is
    no state. Nothing is drawn without noise, or if the compiled engine cannot run the network, which is reported on
    stderr; rows then always start from silence.
    """

    def __init__(self, model: CharRNN, own: slice, rows: int, steps: int, seed: int) -> None:
        self._model, self._own, self._rows, self._seed = model, range(own.start, own.stop), rows, seed
        self._interval = max(2, round(EVERY / steps))  # iterations
        self._draws = model.config.noise > 0
        if self._draws:
            try:
                self._engine()
            except UnavailableError as error:
                log(f"{error} Training does without the network's own sound: what it generates may be less stable.")
                self._draws = False

    def initial_state(self, n: int) -> State:
        """Return the state of n streams before they have begun."""
        if not self._model.config.noise:
            return ()
        sizes = state_sizes(self._model.config)

        def stream() -> State:
            zeros = tuple(tuple(torch.zeros(n, size) for size in layer) for layer in sizes)
            return (*zeros, (torch.full((n, 1), float(MIDDLE)),))

        return (*stream(), *stream(), (torch.zeros(n, OWN_SAMPLES),))

    def check_state(self, state: State) -> None:
        """Raise a ValueError if a state from a file, of the right shapes, has impossible values."""
        if not all(torch.isfinite(tensor).all() for tensor in chain.from_iterable(state)):
            raise ValueError("its own sound has numbers that are not finite")
        config, depth = self._model.config, len(state) // 2
        for stream in filter(None, (state[:depth], state[depth:-1])):
            check_samples(config, stream[: len(hidden_sizes(config))])
            if config.predictors:
                check_level(stream[-2][0])
            if not is_whole(stream[-1][0], 0, BYTES - 1):
                raise ValueError("the last symbols of its own sound are not in their range")
        if state and not is_whole(state[-1][0], -MIDDLE, MIDDLE - 1):
            raise ValueError("the samples of its own sound are not in their range")

    def draw_is_due(self, iteration: int) -> bool:
        """Return whether to draw pieces before an iteration: before the first start in each interval but the first."""
        return self._draws and iteration % self._interval == 0 and iteration > 0

    def draw(self, state: State, iteration: int) -> State:
        """Return the state after the next piece of each stream, drawn at temperature 1 with the network's weights.

        The compiled engine rounds the weights as it does in sampling.
        """
        depth = len(state) // 2
        before = [[tensor.numpy().copy() for tensor in layer] for layer in state[depth:-1]]
        for k, row in enumerate(self._own):
            if self._starts_from_silence(row, iteration):
                for array in chain.from_iterable(before):
                    array[k] = 0
                before[-1][0][k] = MIDDLE
        *streams, (last,) = before
        engine = self._engine()
        engine.set_state(tuple(map(tuple, streams)), last[:, 0].astype(np.int64))
        first = iteration // self._interval * OWN_SAMPLES
        u = np.stack([uniforms(self._seed, row, first, OWN_SAMPLES) for row in self._own], axis=1)
        piece = engine.run(u, 1.0) - MIDDLE
        after, after_last = engine.get_state()
        arrays = (*before, *after, (after_last[:, None],), (piece,))
        return tuple(tuple(torch.from_numpy(array.astype(np.float32)) for array in layer) for layer in arrays)

    def start_rows(self, state: State, hidden: State, iteration: int) -> None:
        """Change the hidden state of the rows that start anew before an iteration, one after the other in an interval.

        It is that of their stream before the last piece, which they read as it fades; or the zero state.
        """
        for k, row in enumerate(self._own):
            if iteration % self._interval != row * self._interval // self._rows:
                continue
            for tensor in chain.from_iterable(hidden):
                tensor[k] = 0
            if self._draws and iteration >= self._interval and not self._starts_from_silence(row, iteration):
                self._continue_stream(state, hidden, k, iteration)

    def _continue_stream(self, state: State, hidden: State, k: int, iteration: int) -> None:
        depth = len(state) // 2
        for target, source in zip(hidden, state[:depth], strict=False):
            for tensor, values in zip(target, source, strict=False):
                tensor[k] = values[k]
        last, piece = state[depth - 1][0][k] - MIDDLE, state[-1][0][k]
        least, greatest = FADE_SAMPLES
        random = np.random.default_rng((self._seed, iteration, self._own[k]))
        length = least * (greatest / least) ** random.random()
        hidden[-1][-1][k] = torch.cat([torch.tensor([0, length]), last, piece])

    def _starts_from_silence(self, row: int, iteration: int) -> bool:
        return (iteration // self._interval + row) % FROM_SILENCE == 0

    def _engine(self) -> CpuEngine:
        """Return an engine of the network with its present weights."""
        weights = {name: tensor.detach().float().cpu().numpy() for name, tensor in model_tensors(self._model).items()}
        threads = min(torch.get_num_threads(), MAX_THREADS)
        return CpuEngine(weights, self._model.config, len(self._own), threads=threads)
