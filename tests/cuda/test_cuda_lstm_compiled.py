"""LSTM kernels compiled for a Hopper GPU, and run on a GPU if there is one."""

import os
import subprocess
import sys

import hopper
import pytest
import torch

pytest.importorskip("triton", reason="kernels are tested where Triton is installed")

COMPILE = """
import json, sys, torch
from hopper import pretend, usage
from charrnn.cuda import lstm as module
from charrnn.models.cells import LSTM
from charrnn.cuda.lstm_layout import layout_for

pretend()
made = {}

def launch(kernel, layout, units, *arguments):
    constants, options = module.compiled_for(layout, units)
    compiled = kernel.warmup(*arguments, *constants, grid=(layout.programs,), **options)
    made[kernel.__name__] = usage(compiled)

module.launch = launch
x, state = torch.zeros(50, 50, 680, requires_grad=True), torch.zeros(50, 680)
with torch.autocast("cpu", torch.bfloat16):
    y, h, c = module.kernel_lstm(LSTM(680, 680), x, state, state, layout_for(50, 680, 2, 132))
y.sum().backward()
print(json.dumps(made))
"""


@pytest.mark.slow
def test_on_hopper_no_registers_are_spilled_and_u_stays_in_shared_memory():
    made = hopper.run(COMPILE)
    assert made.keys() == {"forward_kernel", "backward_kernel"}
    in_shared_memory = 4 * 32 * (256 + 128) * 2  # bytes; the other columns are in registers
    for found in made.values():
        assert found["STACK"] <= 16  # a few numbers that are used only before and after all steps
        assert in_shared_memory < found["shared"] <= 227 * 1024
        assert found["wgmma.mma_async"] >= 44
        assert found["ld.acquire.gpu"] >= 1


ON_A_GPU = """
import sys
import torch
from charrnn.models.cells import LSTM
from charrnn.cuda.lstm import failures, kernel_lstm

device, n, steps, units = sys.argv[1], *map(int, sys.argv[2:])
torch.manual_seed(0)
lstm = LSTM(units, units).to(device)
x, h, c = (torch.randn(*shape, units, device=device, requires_grad=True) for shape in ((n, steps), (n,), (n,)))

def results(low, run):
    with torch.autocast(device, torch.bfloat16, enabled=low):
        outputs = run()
    loss = sum((output.float() * torch.ones_like(output).cumsum(0).sin()).sum() for output in outputs)
    grads = torch.autograd.grad(loss, [x, h, c, lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0])
    return [tensor.detach().float() for tensor in (*outputs, *grads)]

def torch_lstm():
    y, (h_last, c_last) = lstm(x, (h, c))
    return y, h_last, c_last

def stepwise():
    state, outputs = (h, c), []
    for x_t in x.unbind(dim=1):
        y, state = lstm.step(x_t, state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), *state

torch.backends.cudnn.allow_tf32 = False
exact, low = results(False, torch_lstm), results(True, stepwise)
for _ in range(20):
    for ours, theirs, right in zip(results(True, lambda: kernel_lstm(lstm, x, h, c)), low, exact, strict=True):
        assert (ours - right).norm() <= 2 * (theirs - right).norm() + 1e-6
assert failures(torch.device(device)).item() == 0
"""


def run_on_gpu(device, *sizes):
    command = [sys.executable, "-c", ON_A_GPU, device, *map(str, sizes)]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here")
@pytest.mark.parametrize("sizes", [(50, 50, 680), (17, 20, 133)])
def test_on_a_gpu_errors_are_at_most_twice_those_of_plain_torch(sizes):
    run_on_gpu("cuda", *sizes)
