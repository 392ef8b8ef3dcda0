"""A Hopper GPU that is not there: kernels are compiled for it as they would be at a launch, and not launched.

For processes of their own, as Triton either interprets or compiles.
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
    """Have Triton compile for a Hopper GPU."""
    from triton.runtime import driver

    driver.set_active(_Driver())


def usage(made):
    """Of a compiled kernel: registers of a thread, bytes of its stack (what is spilt lies there) and of shared memory,
    and how many instructions of a kind there are."""
    import triton

    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(made.asm["cubin"])
        command = [Path(triton.__file__).parent / TOOLS / "cuobjdump", "--dump-resource-usage", cubin]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(re.search(rf"\b{name}:(\d+)", said)[1]) for name in ("REG", "STACK")}
    kinds = ("wgmma.mma_async", "mma.sync", "ld.acquire.gpu", ".global.gpu.release.add")
    return found | {"shared": made.metadata.shared} | {kind: made.asm["ptx"].count(kind) for kind in kinds}


def run(script, *arguments):
    """What a script that compiles prints as JSON."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as folder:
        environment |= {"TRITON_CACHE_DIR": folder, "PYTHONPATH": str(Path(__file__).parent)}
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
