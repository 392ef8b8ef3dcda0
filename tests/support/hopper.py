"""Compilation of kernels for a Hopper GPU without such a GPU, as at a launch, but without the launch.

It needs a process of its own, because Triton either interprets or compiles.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TOOLS = "backends/nvidia/bin"


class _Driver:
    def get_current_device(self):
        return 0

    def get_current_stream(self, device=0):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


def pretend():
    """Make Triton compile for a Hopper GPU."""
    from triton.runtime import driver

    driver.set_active(_Driver())


def usage(kernel):
    """Return a compiled kernel's registers per thread, bytes of stack (spilled registers) and of shared memory, and the
    number of instructions of some kinds."""
    import triton

    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(kernel.asm["cubin"])
        command = [Path(triton.__file__).parent / TOOLS / "cuobjdump", "--dump-resource-usage", cubin]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(re.search(rf"\b{name}:(\d+)", output)[1]) for name in ("REG", "STACK")}
    kinds = ("wgmma.mma_async", "mma.sync", "ld.acquire.gpu", ".global.gpu.release.add")
    return found | {"shared": kernel.metadata.shared} | {kind: kernel.asm["ptx"].count(kind) for kind in kinds}


def run(script, *arguments):
    """Return what a script that compiles prints as JSON."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as folder:
        environment |= {"TRITON_CACHE_DIR": folder, "PYTHONPATH": str(Path(__file__).parent)}
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
