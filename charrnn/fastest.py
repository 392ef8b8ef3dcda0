"""Which way of computing the recurrent layers a run takes (`charrnn.gpu_layers`): the fastest, or the one asked for."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from typing import Any

import torch

from bytecodec.console import progress, say
from bytecodec.errors import InputError
from charrnn import gpu_layers
from charrnn.model import Layers
from charrnn.padding import ROWS
from charrnn.recipe import Settings
from charrnn.trial import Batch, Clock, MakeStep, Trial, attempt, clock, difference, exact, measure, step_of_the_run

AUTO = "auto"
NOTICEABLE = 1.02  # of two ways that are nearer than this, the simpler one is taken


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
        The name of a way; ``auto``: the fastest on one NVIDIA GPU, and torch's elsewhere; None: that of the settings,
        for a run that goes on.
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
        return _kept(model, batch, settings)
    if asked == AUTO:
        alone = settings.device == "cuda" and processes == 1
        return choose(model, batch(), settings, quiet) if alone else "torch"
    reason = _what_is_in_the_way(asked, model, batch, settings)
    if reason:
        raise InputError(f"--gpu-layers {asked} is not possible here ({reason}): leave it out, or say torch.")
    return asked


def _kept(model: Layers, batch: Callable[[], Batch], settings: Settings) -> str:
    """The way of a run that goes on; on a CPU it is only kept, for when it comes back to a GPU."""
    way = settings.gpu_layers
    reason = _what_is_in_the_way(way, model, batch, settings) if settings.device == "cuda" else ""
    if not reason:
        return way
    say(f"the run's layers were {way}, which is not possible here ({reason}): it goes on with torch's.")
    return "torch"


def _what_is_in_the_way(way: str, model: Layers, batch: Callable[[], Batch], settings: Settings) -> str:
    """Why a way cannot be gone, found out by a step; "" if it can."""
    if way == "torch":
        return ""
    if settings.device != "cuda":
        return f"it is for NVIDIA GPUs, and this run is on {settings.device}"
    try:
        attempt(way, model, batch(), settings)
    except Exception as error:  # of compilers and drivers, whatever they raise
        _check_gpu(way, error)
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
    """The fastest way that comes to what torch's comes to. Those that don't, or cannot be gone, are named with why."""
    ways = _to_be_tried(model, len(batch[0]), settings)
    if len(ways) == 1:
        return ways[0]
    what = "measuring how this GPU computes the layers fastest"
    with progress(len(ways), " ways", quiet, desc=what) as bar:
        try:
            wanted = exact(model, batch, settings)
            trials = {"torch": measure("torch", model, batch, settings, make_step, clock)}
        except Exception as error:  # whatever it is, training will say it again if it matters
            say(f"the layers are torch's, and other ways to compute them not measured: {_sentence(error)}.", quiet)
            return "torch"
        finally:
            _give_back(settings)
        bar.update()
        for way in ways[1:]:
            found = _tried(way, trials["torch"], wanted, model, batch, settings, make_step, clock)
            if isinstance(found, str):
                say(f"layers that are {way} are left out: {found}.", quiet)
            else:
                trials[way] = found
            bar.update()
    least = min(trial.seconds for trial in trials.values())
    fastest = next(way for way, trial in trials.items() if trial.seconds <= NOTICEABLE * least)
    times = ", ".join(f"{way} {1e3 * trial.seconds:.3g}" for way, trial in trials.items())
    say(f"layers    {fastest}, the fastest here in ms an iteration: {times}", quiet)
    return fastest


def _tried(
    way: str,
    torchs: Trial,
    wanted: Trial,
    model: Layers,
    batch: Batch,
    settings: Settings,
    make_step: MakeStep,
    clock: Clock,
) -> Trial | str:
    """What came of a way, or why it is left out."""
    try:
        trial = measure(way, model, batch, settings, make_step, clock)
    except Exception as error:  # of compilers and drivers, whatever they raise
        _check_gpu(way, error)
        return _sentence(error)
    finally:
        _give_back(settings)
    return difference(trial, torchs, wanted, settings) or trial


def _check_gpu(way: str, error: Exception) -> None:
    """Raise an InputError where a way broke not only itself: after some errors a process can use its GPU no more."""
    if not torch.cuda.is_available():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        raise InputError(
            f"the GPU could not be used any more once layers that are {way} were tried ({_sentence(error)}): "
            "start again with --gpu-layers torch."
        ) from error


def _to_be_tried(model: Layers, rows: int, settings: Settings) -> list[str]:
    """The ways of a network but those in which several of cuDNN's persistent kernels would run at the same time.

    Nothing says that they may, and if each waited for a place that another has, the run would hang. By name they can
    be had.
    """

    def persistent(layer: Any) -> bool:  # by torch's rule (see `charrnn.padding`)
        sizes = (layer.input_size, layer.hidden_size)
        return (
            all(size % gpu_layers.MULTIPLE == 0 for size in sizes) and rows % ROWS == 0 and settings.precision != "fp32"
        )

    several = sum(map(persistent, model.layers)) > 1
    left_out = {"padded-overlapped", "overlapped"} if several else {"padded-overlapped"}
    return [way for way in gpu_layers.ways_of(model) if way not in left_out]


def _sentence(error: Exception) -> str:
    """The first line of what an error says, without its last stop."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__).rstrip(".")


def _give_back(settings: Settings) -> None:
    """The memory of copies that nobody holds any more."""
    gc.collect()  # recordings hold on to themselves
    if settings.device == "cuda" and torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):  # of a way that broke, which is known by now
            torch.cuda.empty_cache()
