"""Triton's interpreter runs the programs of a grid one after the other, in which none can wait for a later one. Here
each is a process of its own, in memory that all share, so that they really meet at their barriers.

Where one reads what another may not have written yet, it depends on who is faster. `unevenly` has each program now and
then dawdle before it reads or writes, some more than others, so that what can go wrong does.
"""

import contextlib
import multiprocessing
import os
import random
import time

SECONDS = 120
DAWDLE = 0.004  # seconds, at most

_seed = None


def shared(*tensors):
    """The same tensors in memory that forked processes see."""
    return tuple(tensor.contiguous().clone().share_memory_() for tensor in tensors)


@contextlib.contextmanager
def unevenly(seed):
    """Programs that are launched within dawdle."""
    global _seed
    _seed = seed
    try:
        yield
    finally:
        _seed = None


def run_together(kernel, programs, *arguments, **constants):
    """Launch an interpreted kernel on a grid (programs,) of processes; all its tensors have to be `shared`."""
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_run, args=(kernel, k, programs, arguments, constants)) for k in range(programs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * programs, f"programs ended with {codes}"


def _run(kernel, k, programs, arguments, constants):
    import torch
    from triton.runtime import interpreter

    torch.set_num_threads(1)
    builder = interpreter.interpreter_builder
    place, size = builder.set_grid_idx, builder.set_grid_dim
    builder.set_grid_idx = lambda x, y, z: place(k, y, z)
    builder.set_grid_dim = lambda x, y, z: size(programs, y, z)
    if _seed is not None:
        _dawdle(builder, random.Random(f"{_seed} {k}"))
    # It would copy its tensors back, which are the ones that it was given: over what others write meanwhile.
    interpreter.GridExecutor._restore_args_dev = lambda *_: None
    kernel[(1,)](*arguments, **constants)
    os._exit(0)


def _dawdle(builder, dice):
    often = dice.choice((0.0, 0.02, 0.3))  # how often this program does

    def slowed(access):
        def run(*arguments):
            if dice.random() < often:
                time.sleep(dice.random() * DAWDLE)
            return access(*arguments)

        return run

    builder.create_masked_load = slowed(builder.create_masked_load)
    builder.create_masked_store = slowed(builder.create_masked_store)
