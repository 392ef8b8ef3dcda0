"""The kernel alone, as a program: the same symbols from every variant, compiler and processor."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("cpu_kernel_check.c")
FLAGS = ["-std=gnu11", "-g", "-pthread", "-ffp-contract=off", "-Wno-psabi", "-Wall", "-Wextra", "-Werror"]


def built(folder, compiler, *flags):
    if not shutil.which(compiler):
        pytest.skip(f"there is no {compiler}")
    program = folder / "check"
    subprocess.run([compiler, *FLAGS, *flags, SOURCE, "-o", program, "-lm"], check=True)
    return program


def printed(*command):
    """What the program prints; it ends with 1 where a variant differs from the portable one."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.count("cell ") == 48
    return done.stdout


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return printed(built(tmp_path_factory.mktemp("here"), "cc", "-O2"))


@pytest.mark.slow
def test_all_variants_draw_the_same(here):
    assert "something else" not in here


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(tmp_path, here, sanitizers):
    assert printed(built(tmp_path, "cc", "-O1", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all")) == here


@pytest.mark.slow
def test_another_compiler_draws_the_same(tmp_path, here):
    assert printed(built(tmp_path, "clang", "-O2")) == here


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["max", "cortex-a53"])  # with dot products, and without
def test_an_arm_processor_draws_the_same(tmp_path, here, processor):
    if not shutil.which("qemu-aarch64"):
        pytest.skip("there is no qemu-aarch64")
    assert (
        printed("qemu-aarch64", "-cpu", processor, built(tmp_path, "aarch64-linux-gnu-gcc", "-O2", "-static")) == here
    )
