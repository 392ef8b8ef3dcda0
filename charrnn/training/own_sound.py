"""The network's own sound in training: audio that it generates, with which its level and spectrum stay right.

A network that reads its own output reaches states that do not occur in recordings: too loud, a whistle, endless
silence. It has not learnt to leave them. So N streams, one per row of training, are drawn throughout training. Every
`EVERY` samples a row restarts from its stream's state, and reads the stream's next samples while they fade into the
recording. The network thus learns to return to the recording. Training on states that the network itself has reached
is the idea of DAgger (Ross, Gordon and Bagnell 2011); streams that continue while the weights change are that of
persistent contrastive divergence (Tieleman 2008).
"""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch
from torch import Tensor

from bytecodec.console import log
from charrnn.engines.cpu.autotune import MAX_THREADS
from charrnn.engines.cpu.engine import CpuEngine
from charrnn.engines.cpu.library import UnavailableError
from charrnn.models.char_rnn import CharRNN, State
from charrnn.models.config import BYTES, SILENCE_ID, check_stream, is_whole, map_state, state_sizes
from charrnn.models.samples import OWN_SAMPLES
from charrnn.sampling.generate import generate
from charrnn.storage.checkpoint import model_tensors
from charrnn.training.distributed import main_process_only

EVERY = 2500  # samples of a row from one restart to the next, rounded to whole batches, at least two
FROM_SILENCE = 16  # one restart in this many is from the zero state, so that the network learns to begin
FIRST_STREAM = 1 << 63  # number of row 0's stream, so that no sample of the run uses the same random numbers
FADE_SAMPLES = (100, OWN_SAMPLES)  # least and greatest length of a fade


class OwnSound:
    """Streams of a network's own sound for those of the rows of training that this process has.

    The resume file contains their state: the states of the streams and their last symbols before the last piece, the
    same after it, and the pieces (N, `OWN_SAMPLES`) from -128 to 127. Without noise there is no state. Nothing is drawn
    without noise, or if the compiled engine cannot run the network, which is reported on stderr; rows then restart from
    the zero state alone, one interval in `FROM_SILENCE`.

    Parameters
    ----------
    model
        The network, on its device.
    local_rows
        The rows of this process.
    rows
        Number of rows of all processes.
    steps
        T, the steps of a batch.
    seed
        Of the random numbers.
    """

    def __init__(self, model: CharRNN, local_rows: slice, rows: int, steps: int, seed: int) -> None:
        self._model, self._rows, self._seed = model, rows, seed
        self._local_rows = range(local_rows.start, local_rows.stop)
        self._depth = len(state_sizes(model.config))  # of a stream's state
        self._interval = max(2, round(EVERY / steps))  # iterations
        self._draws = model.config.noise > 0
        if self._draws:
            try:
                self._engine()
            except UnavailableError as error:
                with main_process_only():
                    log(f"{error} Training will not use the network's own sound, so its output may be less stable.")
                self._draws = False

    def initial_state(self, n: int) -> State:
        """Return the state of n streams before they have begun, on the network's device."""
        if not self._model.config.noise:
            return ()
        weight = self._model.output.weight

        def stream() -> State:
            zeros = tuple(
                tuple(weight.new_zeros(n, size) for size in layer) for layer in state_sizes(self._model.config)
            )
            return (*zeros, (weight.new_full((n, 1), SILENCE_ID),))

        return (*stream(), *stream(), (weight.new_zeros(n, OWN_SAMPLES),))

    def check_state(self, state: State) -> None:
        """Raise a ValueError if a state from a file, of the right shapes, has impossible values."""
        if not state:
            return
        if not all(torch.isfinite(tensor).all() for tensor in chain.from_iterable(state)):
            raise ValueError("its own sound has numbers that are not finite")
        for stream, last in (self._before(state), self._after(state)):
            check_stream(self._model.config, stream)
            if not is_whole(last, 0, BYTES - 1):
                raise ValueError("the last symbols of its own sound are not in their range")
        if not is_whole(state[-1][0], -SILENCE_ID, SILENCE_ID - 1):
            raise ValueError("the samples of its own sound are not in their range")

    def draw_is_due(self, iteration: int) -> bool:
        """Return whether to draw pieces before an iteration: before each interval but the first."""
        return self._draws and iteration % self._interval == 0 and iteration > 0

    def draw(self, state: State, iteration: int) -> State:
        """Return the state after the next piece of each stream, drawn at temperature 1 with the network's weights.

        The compiled engine rounds the weights as it does in sampling.
        """
        stream, last = self._after(state)
        arrays = [[tensor.cpu().numpy().copy() for tensor in layer] for layer in (*stream, (last,))]
        for k, row in enumerate(self._local_rows):
            if self._starts_from_silence(row, iteration):
                for array in chain.from_iterable(arrays):
                    array[k] = 0
                arrays[-1][0][k] = SILENCE_ID
        *before, (before_last,) = arrays
        engine = self._engine()
        engine.set_state(tuple(map(tuple, before)), before_last[:, 0].astype(np.int64))
        first = iteration // self._interval * OWN_SAMPLES
        first_stream = FIRST_STREAM + self._local_rows.start
        piece = next(generate(engine, OWN_SAMPLES, 1.0, self._seed, OWN_SAMPLES, first, first_stream)) - SILENCE_ID
        after, after_last = engine.get_state()
        result = (*before, (before_last,), *after, (after_last[:, None],), (piece,))
        device = last.device
        return map_state(lambda array: torch.from_numpy(array.astype(np.float32)).to(device), result)

    def restart_rows(self, state: State, hidden: State, iteration: int) -> None:
        """Change the hidden state of the rows that restart before an iteration, one after the other in an interval.

        It becomes that of their stream before the last piece, which they read as it fades, or the zero state.
        """
        for k, row in enumerate(self._local_rows):
            if iteration % self._interval != row * self._interval // self._rows:
                continue
            from_silence = self._starts_from_silence(row, iteration)
            if not (self._draws or from_silence):
                continue
            for tensor in chain.from_iterable(hidden):
                tensor[k] = 0
            if iteration >= self._interval and not from_silence:
                self._continue_stream(state, hidden, k, iteration)

    def _continue_stream(self, state: State, hidden: State, k: int, iteration: int) -> None:
        """Change the hidden state of a row to that of its stream, without that of the level control."""
        stream, last = self._before(state)
        for target, source in zip(hidden, stream, strict=False):
            for tensor, values in zip(target, source, strict=False):  # in training, the samples' state is longer
                tensor[k] = values[k]
        least, greatest = FADE_SAMPLES
        random = np.random.default_rng((self._seed, iteration, self._local_rows[k]))
        row_of_own_sound = hidden[-1][-1][k]  # its position, the length of the fade, and the samples
        row_of_own_sound[1] = least * (greatest / least) ** random.random()
        row_of_own_sound[2:] = torch.cat([last[k] - SILENCE_ID, state[-1][0][k]])

    def _before(self, state: State) -> tuple[State, Tensor]:
        """Return the state of the streams before their last piece, and the last symbols (N, 1)."""
        return state[: self._depth], state[self._depth][0]

    def _after(self, state: State) -> tuple[State, Tensor]:
        """Return the state of the streams after their last piece, and the last symbols (N, 1)."""
        return state[self._depth + 1 : -2], state[-2][0]

    def _starts_from_silence(self, row: int, iteration: int) -> bool:
        return (iteration // self._interval + row) % FROM_SILENCE == 0

    def _engine(self) -> CpuEngine:
        """Return an engine of the network with its present weights."""
        weights = {name: tensor.detach().float().cpu().numpy() for name, tensor in model_tensors(self._model).items()}
        threads = min(torch.get_num_threads(), MAX_THREADS)
        return CpuEngine(weights, self._model.config, len(self._local_rows), threads=threads)
