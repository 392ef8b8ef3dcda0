"""Triton's interpreter with a process per program of a grid.

The interpreter runs the programs one after the other, so that none can wait for a later one. Here each is a process of
its own in shared memory, and their barriers synchronise them.

Whether a program reads data that another one has not written yet depends on their speed. `unevenly` makes programs
sleep at random before they read or write, some more often than others, so that such errors occur.
"""

import contextlib
import multiprocessing
import os
import random
import time

TIMEOUT = 120  # seconds
MAX_DELAY = 0.004  # seconds

_seed = None


def shared(*tensors):
    """Return copies of tensors in memory that forked processes share."""
    return tuple(tensor.contiguous().clone().share_memory_() for tensor in tensors)


@contextlib.contextmanager
def unevenly(seed):
    """Delay the programs that are launched in this context at random."""
    global _seed
    _seed = seed
    try:
        yield
    finally:
        _seed = None


def run_together(kernel, programs, *arguments, **constants):
    """Launch an interpreted kernel on a grid (programs,) of processes; all its tensors must be `shared`."""
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_run, args=(kernel, k, programs, arguments, constants)) for k in range(programs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * programs, f"programs ended with {codes}"


def _run(kernel, k, programs, arguments, constants):
    import torch
    from triton.runtime import interpreter

    torch.set_num_threads(1)
    builder = interpreter.interpreter_builder
    set_index, set_size = builder.set_grid_idx, builder.set_grid_dim
    builder.set_grid_idx = lambda x, y, z: set_index(k, y, z)
    builder.set_grid_dim = lambda x, y, z: set_size(programs, y, z)
    if _seed is not None:
        _delay(builder, random.Random(f"{_seed} {k}"))
    # The interpreter would copy its tensors back, over what other programs have written in the meantime.
    interpreter.GridExecutor._restore_args_dev = lambda *_: None
    kernel[(1,)](*arguments, **constants)
    os._exit(0)


def _delay(builder, generator):
    probability = generator.choice((0.0, 0.02, 0.3))

    def slowed(access):
        def run(*arguments):
            if generator.random() < probability:
                time.sleep(generator.random() * MAX_DELAY)
            return access(*arguments)

        return run

    builder.create_masked_load = slowed(builder.create_masked_load)
    builder.create_masked_store = slowed(builder.create_masked_store)
