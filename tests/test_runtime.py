"""Threads, memory, device and precision of a process, and their defaults."""

import os
import subprocess
import sys

import pytest
import torch

from bytecodec.errors import InputError
from charrnn import runtime


def test_threads_are_those_of_the_environment(monkeypatch):
    monkeypatch.delenv("CHARRNN_THREADS", raising=False)
    assert runtime.default_threads() == 0
    monkeypatch.setenv("CHARRNN_THREADS", "3")
    assert runtime.default_threads() == 3


def test_a_number_of_threads_in_the_environment_that_is_not_one_is_rejected(monkeypatch):
    for value in ("", "two", "-1", "1.5", "²", "99999999"):
        monkeypatch.setenv("CHARRNN_THREADS", value)
        with pytest.raises(InputError, match="CHARRNN_THREADS"):
            pytest.fail(f"accepted: {runtime.default_threads()}")


def test_threads_are_set_and_returned_and_0_keeps_them():
    assert runtime.set_threads(2) == torch.get_num_threads() == 2
    assert runtime.set_threads(0) == torch.get_num_threads() == 2


@pytest.mark.parametrize("there", [True, False])
def test_the_device_is_a_gpu_if_there_is_one(monkeypatch, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert runtime.choose_device("auto") == ("cuda" if there else "cpu")
    assert runtime.choose_device("cpu") == "cpu"
    if there:
        assert runtime.choose_device("cuda") == "cuda"
        return
    with pytest.raises(InputError, match="NVIDIA"):
        runtime.choose_device("cuda")


@pytest.mark.parametrize(("there", "works", "device"), [(1, 1, "mps"), (1, 0, "cpu"), (0, 1, "cpu")])
def test_the_device_is_apples_gpu_if_it_can_train(monkeypatch, there, works, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(there))
    monkeypatch.setattr(runtime, "trains_on", lambda name: bool(works))
    assert runtime.choose_device("auto") == device
    assert runtime.choose_precision("auto", "mps") == "fp32"
    if there:
        assert runtime.choose_device("mps") == "mps"
        return
    with pytest.raises(InputError, match="Apple"):
        runtime.choose_device("mps")


def test_training_works_on_a_device_with_the_same_losses_as_the_cpu():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert runtime.trains_on("cpu")
    assert not runtime.trains_on("meta")  # a device that computes nothing
    assert not runtime.trains_on("mps")
    assert torch.equal(before, torch.random.get_rng_state())


def test_training_does_not_work_on_a_device_with_other_losses(monkeypatch):
    real, calls = torch.nn.LSTM.forward, []

    def wrong(self, *args):
        y, state = real(self, *args)
        calls.append(1)
        return (y + 1 if len(calls) > 2 else y * torch.arange(6), state)

    monkeypatch.setattr(torch.nn.LSTM, "forward", wrong)
    assert not runtime.trains_on("cpu")


@pytest.mark.parametrize(("avx512", "amx", "precision"), [(1, 0, "bf16"), (0, 1, "bf16"), (0, 0, "fp32")])
def test_the_precision_is_bf16_if_the_processor_multiplies_it(monkeypatch, avx512, amx, precision):
    monkeypatch.setattr(runtime, "computes_bf16", lambda device: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(avx512))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx))
    assert runtime.choose_precision("auto", "cpu") == precision
    assert runtime.choose_precision("fp32", "cpu") == "fp32"
    assert runtime.choose_precision("bf16", "cpu") == "bf16"


def test_bf16_is_rejected_on_a_processor_on_which_torch_cannot_run_lstm_layers_in_it(bf16, monkeypatch):
    def fail(self, x):
        raise RuntimeError("could not create a primitive descriptor")

    assert runtime.choose_precision("bf16", "cpu") == "bf16"
    monkeypatch.setattr(torch.nn.LSTM, "forward", fail)
    assert not runtime.computes_bf16.__wrapped__("cpu")
    monkeypatch.setattr(runtime, "computes_bf16", runtime.computes_bf16.__wrapped__)
    with pytest.raises(InputError, match="use --precision fp32"):
        runtime.choose_precision("bf16", "cpu")
    assert runtime.choose_precision("bf16", "cuda") == "bf16"


@pytest.mark.parametrize(("supported", "precision"), [(True, "bf16"), (False, "fp32")])
def test_the_precision_on_a_gpu_is_bf16_if_the_hardware_multiplies_it(monkeypatch, supported, precision):
    emulated_or_not = {True: True, False: supported}
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: emulated_or_not[including_emulation]
    )
    assert runtime.choose_precision("auto", "cuda") == precision


def test_bf16_multiplies_in_bf16_and_fp32_does_not():
    a = torch.full((4, 4), 1 + 2**-10)  # more digits than bf16 has
    with runtime.autocast("bf16", "cpu"):
        assert (a @ a).dtype == torch.bfloat16
    with runtime.autocast("fp32", "cpu"):
        assert torch.equal(a @ a, torch.full((4, 4), 4 * (1 + 2**-10) ** 2))


@pytest.mark.parametrize(("before", "after"), [({}, str(runtime.SPIN_COUNT)), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_before_torch_a_setting_in_the_environment_wins_and_torch_is_not_loaded(before, after):
    program = (
        "import os, sys; from charrnn import runtime; runtime.before_torch()\n"
        "print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"} | before
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{after} False\n"


def test_processes_on_a_machine_share_its_cores(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for cores, share in ((4, 2), (3, 1), (1, 1)):
        torch.set_num_threads(cores)
        assert runtime.set_threads(0) == share
    assert runtime.set_threads(3) == 3  # explicit
    torch.set_num_threads(1)


def test_the_limit_of_one_thread_that_torchrun_sets_is_removed(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    runtime.before_torch()
    assert os.environ["OMP_NUM_THREADS"] == "1"  # without torchrun it is the user's setting
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    runtime.before_torch()
    assert "OMP_NUM_THREADS" not in os.environ


def test_each_process_uses_a_gpu_of_its_own(monkeypatch):
    selected = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", selected.append)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    for rank in "01":
        monkeypatch.setenv("LOCAL_RANK", rank)
        runtime.select_gpu("cuda")
        runtime.select_gpu("cpu")
    assert selected == [0, 1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="at most 2"):
        runtime.select_gpu("cuda")
