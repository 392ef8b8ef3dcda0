"""The kernel as a program of its own samples the same symbols in every variant, by every compiler and processor."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("cpu_kernel_check.c")
FLAGS = ["-std=gnu11", "-g", "-pthread", "-ffp-contract=off", "-Wno-psabi", "-Wall", "-Wextra", "-Werror"]


def build(folder, compiler, *flags):
    if not shutil.which(compiler):
        pytest.skip(f"there is no {compiler}")
    program = folder / "check"
    subprocess.run([compiler, *FLAGS, *flags, SOURCE, "-o", program, "-lm"], check=True)
    return program


def output_of(*command):
    """Return the output of the program, which fails if a variant differs from the portable one."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.count("cell ") == 72
    return done.stdout


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return output_of(build(tmp_path_factory.mktemp("kernel"), "cc", "-O2"))


@pytest.mark.slow
def test_all_variants_sample_the_same_symbols(reference):
    assert "differs" not in reference


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(tmp_path, reference, sanitizers):
    assert output_of(build(tmp_path, "cc", "-O1", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all")) == reference


@pytest.mark.slow
def test_another_compiler_leads_to_the_same_symbols(tmp_path, reference):
    assert output_of(build(tmp_path, "clang", "-O2")) == reference


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["max", "cortex-a53"])  # with dot products, and without
def test_an_arm_processor_samples_the_same_symbols(tmp_path, reference, processor):
    if not shutil.which("qemu-aarch64"):
        pytest.skip("there is no qemu-aarch64")
    assert (
        output_of("qemu-aarch64", "-cpu", processor, build(tmp_path, "aarch64-linux-gnu-gcc", "-O2", "-static"))
        == reference
    )
