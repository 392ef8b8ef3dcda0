"""Checks for tests/test_gpu_check.py that do what the first ones on a GPU may do, in processes of their own."""

import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

from gpu_workers import Check

from bytecodec.errors import InputError

PLACE = "GPU_TROUBLE"  # the environment variable that names a file to write to


def fine():
    return {"process": os.getpid(), "lowest process": 1}


def wrong():
    print("this is no part of the table")
    return "not the same", False


def breaks():
    raise RuntimeError("CUDA error: out of luck\nand more")


def stumbles():
    raise ValueError("no such thing")


def is_refused():
    raise InputError("it takes 16 streams at most.")


class OutOfMemoryError(RuntimeError):
    """Torch's is called so."""


def takes_too_much():
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")


def dies():
    os._exit(3)


def is_killed():
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs():
    if PLACE in os.environ:
        child = subprocess.Popen(["sleep", "1000"])
        Path(os.environ[PLACE]).write_text(str(child.pid))
    time.sleep(1000)


def interrupts():
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(1000)


def made(*works, kind="", limit=60.0):
    return [Check(f"{i}: {work.__name__}", work, kind=kind, limit=limit) for i, work in enumerate(works)]


def quick(rehearse):
    """All of the tool's but the commands, which have a test of their own."""
    import gpu_plan

    return [check for check in gpu_plan.checks(rehearse) if "commands" not in check.name]


def all_kinds(rehearse):
    troubles = (wrong, stumbles, is_refused, fine, breaks, fine, takes_too_much, fine, dies, fine, is_killed, fine)
    return [*made(fine, *troubles), Check("afresh", fine, fresh=True)]


def hanging(rehearse):
    return [Check("before", fine), *made(hangs, fine, kind="resident", limit=0.5), Check("after", fine)]


def breaking_again(rehearse):
    return [*made(breaks, wrong, breaks, fine, kind="resident"), Check("after", fine)]


def interrupting(rehearse):
    return made(fine, interrupts, fine)


def not_starting(rehearse):
    if multiprocessing.parent_process():
        raise RuntimeError("no driver")
    return made(fine, fine)
