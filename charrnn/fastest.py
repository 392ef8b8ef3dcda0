"""Which way of computing the recurrent layers a run takes (`charrnn.gpu_layers`), and which is the fastest on this GPU.

Each way is measured as it would be used: a copy of network and optimiser is trained on the run's first batch, the step
recorded as a CUDA graph. The copies are thrown away; weights and random numbers of the run are as if nobody had measured.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bytecodec.console import progress, say
from bytecodec.errors import InputError
from charrnn import graphs, gpu_layers
from charrnn.graphs import Work
from charrnn.model import Layers
from charrnn.recipe import Settings
from charrnn.step import WARM_UP, GraphedStep, Step, failed, make_optimizer

ROUNDS = 3  # that are timed of a way, the best of which counts: a GPU's clock rises with its work
MOST_ITERATIONS = 10  # of a round
SECONDS = 0.1  # that a round takes, if an iteration is not longer
NOTICEABLE = 1.02  # of two ways that are nearer than this, the simpler one is taken

TOLERANCE = {"bf16": 0.1, "fp32": 0.025}
"""How far a way's numbers may be from torch's: the length of the difference of a parameter's two gradients by the length
of that gradient. Gradients in bf16 were 0.013 from those in fp32 for matrices and 0.056 for layer normalisation, at 256
steps and 3 layers; two roundings of that size, and a little. In fp32 a GPU multiplies in TF32, which is four times finer
than bf16. A step that is missed, or a gate that is wrong, is further away."""

LOSS_TOLERANCE = (
    0.1  # of that, relative to the loss or to 1: it is a mean over all symbols, where rounding averages out
)
LEAST_PART = 1e-3  # of the whole gradient's length, below which a parameter's share is measured against it: noise

AUTO = "auto"
FAILED = "its programs waited for each other in vain"

Batch = tuple[Tensor, Tensor]  # x (N, ·) and y (N, T), on the device
MakeStep = Callable[[Layers, torch.optim.Optimizer, Settings], Step]
Clock = Callable[[], float]  # seconds, once the device has done all that it was given


@dataclass
class Trial:
    """What came of a way: seconds an iteration, outcomes (iterations, 2) and the gradients of the first that was recorded."""

    seconds: float
    outcomes: Tensor
    gradients: list[Tensor]
    failed: bool = False  # as the device says


class _RecordedStep(GraphedStep):
    """One that does not go on in another way where it cannot be recorded."""

    def _recorded(self) -> Work:
        return self._record(self._in_place)


def step_of_the_run(model: Layers, optimizer: torch.optim.Optimizer, settings: Settings) -> Step:
    """The step that one process takes on a GPU."""
    return (_RecordedStep if graphs.wanted(settings.device) else Step)(model, optimizer, settings)


def clock() -> float:
    """Seconds, once the GPU has done all that it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def decide(
    asked: str | None,
    model: Layers,
    batch: Callable[[], Batch],
    settings: Settings,
    processes: int,
    quiet: bool = False,
) -> str:
    """The way of a run.

    Parameters
    ----------
    asked
        The name of a way; ``auto``: the fastest on one NVIDIA GPU, and torch's elsewhere; None: that of the settings, for a
        run that goes on.
    model
        On its device; as it is after.
    batch
        Makes a batch of the run, if it is needed.

    Raises
    ------
    InputError
        There is no such way, here or for this network.
    """
    if asked is None:
        return _kept(model, batch, settings, quiet)
    if asked == AUTO:
        alone = settings.device == "cuda" and processes == 1
        return choose(model, batch(), settings, quiet) if alone else "torch"
    reason = _what_is_in_the_way(asked, model, batch, settings)
    if reason:
        raise InputError(f"--gpu-layers {asked} is not possible here ({reason}): leave it out, or say torch.")
    return asked


def _kept(model: Layers, batch: Callable[[], Batch], settings: Settings, quiet: bool) -> str:
    """The way of a run that goes on; on a CPU it is only kept, for when it comes back to a GPU."""
    way = settings.gpu_layers
    reason = _what_is_in_the_way(way, model, batch, settings) if settings.device == "cuda" else ""
    if not reason:
        return way
    say(f"the run's layers were {way}, which is not possible here ({reason}): it goes on with torch's.", quiet)
    return "torch"


def _what_is_in_the_way(way: str, model: Layers, batch: Callable[[], Batch], settings: Settings) -> str:
    """Why a way cannot be gone, found out by a step; "" if it can."""
    if way == "torch":
        return ""
    if settings.device != "cuda":
        return f"it is for NVIDIA GPUs, and this run is on {settings.device}"
    try:
        attempt(way, model, batch(), settings, Step)
    except Exception as error:  # of compilers and drivers, whatever they raise
        return _sentence(error)
    finally:
        _give_back(settings)
    return ""


def choose(
    model: Layers,
    batch: Batch,
    settings: Settings,
    quiet: bool = False,
    make_step: MakeStep = step_of_the_run,
    clock: Clock = clock,
) -> str:
    """The fastest way that comes to what torch's comes to. Those that don't, or cannot be gone, are named with the reason."""
    ways = gpu_layers.ways_of(model)
    if len(ways) == 1:
        return ways[0]
    trials: dict[str, Trial] = {}
    what = "measuring how this GPU computes the layers fastest"
    with progress(len(ways), " ways", quiet, desc=what) as bar:
        for way in ways:
            reason = ""
            try:
                trials[way] = measure(way, model, batch, settings, make_step, clock)
            except (
                Exception
            ) as error:  # of compilers and drivers, whatever they raise; training will, if that is torch's
                reason = _sentence(error)
            else:
                reason = _difference(trials[way], trials["torch"], settings)
            _give_back(settings)
            if reason and way == "torch":
                say(f"the layers are torch's, and the ways to compute them not measured: {reason}.", quiet)
                return "torch"  # there is nothing to compare with
            if reason:
                trials.pop(way, None)
                say(f"layers that are {way} are left out: {reason}.", quiet)
            bar.update()
    least = min(trial.seconds for trial in trials.values())
    fastest = next(way for way, trial in trials.items() if trial.seconds <= NOTICEABLE * least)
    times = ", ".join(f"{way} {1e3 * trial.seconds:.3g}" for way, trial in trials.items())
    say(f"layers    {fastest}, the fastest here in ms an iteration: {times}", quiet)
    return fastest


def measure(
    way: str,
    model: Layers,
    batch: Batch,
    settings: Settings,
    make_step: MakeStep = step_of_the_run,
    clock: Clock = clock,
) -> Trial:
    """Train a copy of a network in a way, on one batch with the state carried, and time it.

    The rate is zero: Adam does all its work, and the weights stay, so that ways can be compared by their gradients.
    Without dropout, as blocks draw other numbers.
    """
    trained, step = _copy(way, model, settings, make_step)
    state = trained.initial_state(len(batch[0]))
    outcomes: list[Tensor] = []

    def seconds(count: int) -> float:
        nonlocal state
        began = clock()
        for _ in range(count):
            outcome, state = step(*batch, state, 0.0)
            outcomes.append(outcome)
        return (clock() - began) / count

    try:
        seconds(WARM_UP + 1)  # until it is recorded
        gradients = [p.grad.detach().clone() for p in step.parameters if p.grad is not None]
        count = int(max(1, min(MOST_ITERATIONS, SECONDS / max(seconds(1), 1e-9))))
        took = min(seconds(count) for _ in range(ROUNDS))
        return Trial(took, torch.stack(outcomes), gradients, failed(trained))
    finally:
        _forget_failures(trained)


def attempt(way: str, model: Layers, batch: Batch, settings: Settings, make_step: MakeStep = Step) -> None:
    """Take one step with a copy of a network in a way, and raise what is raised."""
    trained, step = _copy(way, model, settings, make_step)
    try:
        outcome, _ = step(*batch, trained.initial_state(len(batch[0])), 0.0)
        if failed(trained):
            raise RuntimeError(FAILED)
        if not outcome.isfinite().all():
            raise RuntimeError("its numbers are not finite")
    finally:
        _forget_failures(trained)


def _copy(way: str, model: Layers, settings: Settings, make_step: MakeStep) -> tuple[Layers, Step]:
    trained = copy.deepcopy(model)
    trained.to(next(model.parameters()).device)  # has cuDNN's weights lie end to end again
    trained.train()
    trained.dropout.p = 0.0
    gpu_layers.set_way(trained, way)
    return trained, make_step(trained, make_optimizer(trained, settings), settings)


def _forget_failures(model: Layers) -> None:
    """Of a copy: the flag is the device's, and the run would find it."""
    if model.failures is not None:
        model.failures(next(model.parameters()).device).zero_()


def _difference(trial: Trial, torchs: Trial, settings: Settings) -> str:
    """What is wrong with the numbers of a way, given those of torch's; "" if nothing."""
    if trial.failed:
        return FAILED
    if not trial.outcomes.isfinite().all():
        return "its loss or gradient is not finite"
    tolerance = TOLERANCE[settings.precision]
    count = min(len(trial.outcomes), len(torchs.outcomes))  # the faster ones did more
    (losses, norms), (wanted, wanted_norms) = trial.outcomes[:count].T, torchs.outcomes[:count].T
    off = float(((losses - wanted).abs() / wanted.abs().clamp(min=1)).max())
    if off > LOSS_TOLERANCE * tolerance:
        return f"its loss is {off:.2g} away from torch's, and rounding is less than {LOSS_TOLERANCE * tolerance:g}"
    whole = torch.nn.utils.get_total_norm(torchs.gradients)
    apart = [
        (mine - theirs).norm() / torch.maximum(theirs.norm(), LEAST_PART * whole).clamp(min=torch.finfo().tiny)
        for mine, theirs in zip(trial.gradients, torchs.gradients, strict=True)
    ]
    apart.append(((norms - wanted_norms).abs() / wanted_norms.clamp(min=torch.finfo().tiny)).max())
    off = float(torch.stack(apart).max())
    return f"its gradients are {off:.2g} away from torch's, and rounding is less than {tolerance:g}" * (off > tolerance)


def _sentence(error: Exception) -> str:
    """The first line of what an error says, without its last stop."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__).rstrip(".")


def _give_back(settings: Settings) -> None:
    """The memory of copies that nobody holds any more."""
    gc.collect()  # recordings hold on to themselves
    if settings.device == "cuda" and torch.cuda.is_available():
        torch.cuda.empty_cache()
