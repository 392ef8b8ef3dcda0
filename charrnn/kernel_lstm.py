"""LSTM layers that learn on an NVIDIA GPU by way of the kernels of `charrnn.lstm_kernels`: one product for all steps
before a kernel and four after it, with what waits for the step before in between.

Everything inside lies in the order of time, (T, N, ...), and gates and units are padded with zeros to the kernels'
pitch, weights too, so that no product needs a copy of what a kernel wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from charrnn.lstm_kernels import GATES, Layout, alone, layout_for, run_backward, run_forward
from charrnn.padding import up

if TYPE_CHECKING:
    from charrnn.cells import LSTM

ALIGNED = 8  # numbers: where the rows of a matrix are a multiple of 16 bytes apart, cuBLAS has its fast kernels


def kernel_lstm(
    lstm: LSTM, x: Tensor, h: Tensor, c: Tensor, layout: Layout | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (N, T, H) of a layer for x (N, T, D), and its state (h, c) after them, (N, H).

    Under autocast products and outputs are in its precision, sums and the state in fp32. It can be recorded as a CUDA
    graph once it has run. Whether all went well, `charrnn.lstm_kernels.failures` says.

    Parameters
    ----------
    layout
        How the kernels share the work; by default what suits the GPU, and on a CPU, where Triton's interpreter runs
        them for tests, one program.

    Raises
    ------
    ValueError
        For more rows and units than the GPU takes at once.
    """
    kind = x.device.type
    inside = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    if layout is None:
        layout = _layout(len(x), lstm.hidden_size, inside, x.device)
    weights = (lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, h, c, *weights))
    y, h, c = _KernelLSTM.apply(x, h, c, *weights, inside, layout, keep)  # type: ignore[no-untyped-call]
    return y, h, c


def _layout(n: int, units: int, inside: torch.dtype, device: torch.device) -> Layout:
    if device.type == "cpu":
        return alone(n, units)
    gpu = torch.cuda.get_device_properties(device)
    memory = gpu.shared_memory_per_block_optin
    return layout_for(n, units, inside.itemsize, gpu.multi_processor_count, memory)


class _KernelLSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias: Tensor,
        inside: torch.dtype,
        layout: Layout,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, steps, inputs = x.shape
        units, pitch = weight_hh.shape[1], layout.pitch
        with torch.autocast(x.device.type, enabled=False):
            rows = _by_time(x, inside)
            w = _widened(weight_ih, units, pitch, rows.shape[1], inside)
            u = _widened(weight_hh, units, pitch, pitch, inside)
            gates_x = (rows @ w.flatten(0, 1).t()).view(steps, n, GATES, pitch)
            h, c = h.float().contiguous(), c.float().contiguous()
            outputs, h, c, gates, cells = run_forward(layout, gates_x, u, bias.float(), h, c, keep)
        ctx.save_for_backward(rows, w, u, outputs, gates, cells)
        ctx.layout, ctx.inputs, ctx.units, ctx.dtype = layout, inputs, units, x.dtype
        ctx.set_materialize_grads(False)
        return outputs[1:, :, :units].transpose(0, 1), h, c

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Backpropagation through time: see `charrnn.projected`, whose layers have R besides."""
        rows, w, u, outputs, gates, cells = ctx.saved_tensors
        steps, n, _, pitch = gates.shape
        y_grad, h_grad, c_grad = grads
        units = ctx.units
        with torch.autocast(rows.device.type, enabled=False):
            if y_grad is None:
                y_grad = outputs.new_zeros(1, 1, units).expand(n, steps, units)
            elif y_grad.stride(2) != 1:
                y_grad = y_grad.contiguous()
            state_grads = (g if g is None else g.contiguous() for g in (h_grad, c_grad))
            s, h0_grad, c0_grad, bias_grad = run_backward(ctx.layout, (y_grad, *state_grads), u, gates, cells)
            s = s.view(steps * n, GATES * pitch)
            x_grad = None
            if ctx.needs_input_grad[0]:
                x_grad = (s @ w.flatten(0, 1)).view(steps, n, -1)[..., : ctx.inputs].transpose(0, 1).to(ctx.dtype)
            w_grad = _narrowed(s.t() @ rows, units, ctx.inputs)
            u_grad = _narrowed(s.t() @ outputs[:-1].view(steps * n, pitch), units, units)
        return x_grad, h0_grad, c0_grad, w_grad, u_grad, bias_grad.flatten(), None, None, None


def _by_time(x: Tensor, inside: torch.dtype) -> Tensor:
    """Inputs (N, T, D) as a matrix of T N rows; a copy of them, unless they are the outputs of a layer below."""
    n, steps, inputs = x.shape
    if x.dtype == inside and inputs % ALIGNED == 0:
        return x.transpose(0, 1).flatten(0, 1)
    rows = x.new_zeros(steps, n, up(inputs, ALIGNED), dtype=inside)
    rows[..., :inputs] = x.transpose(0, 1)
    return rows.flatten(0, 1)


def _widened(weight: Tensor, units: int, pitch: int, columns: int, inside: torch.dtype) -> Tensor:
    """A weight (4 H, ·) as (4, pitch, columns) that end in zeros."""
    wide = weight.new_zeros(GATES, pitch, columns, dtype=inside)
    wide[:, :units, : weight.shape[1]] = weight.view(GATES, units, -1)
    return wide


def _narrowed(grad: Tensor, units: int, columns: int) -> Tensor:
    """A gradient (4 pitch, ·) as (4 H, columns) fp32."""
    narrow = grad.view(GATES, -1, grad.shape[1])[:, :units, :columns]
    return narrow.to(torch.float32, memory_format=torch.contiguous_format).reshape(GATES * units, columns)
