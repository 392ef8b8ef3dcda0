"""LSTM layers for training on an NVIDIA GPU, by the kernels of `charrnn.cuda.lstm_kernels`.

The kernels compute only the recurrence. One matrix product over all steps precedes the kernel of the forward pass, and
three follow that of the backward pass.

Tensors inside are time-major, (T, N, ...), so that products read what the kernels wrote without a copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from bytecodec.errors import InputError
from charrnn.cuda.grid_barrier import SPIN_LIMIT
from charrnn.cuda.lstm_kernels import LINE, backward_kernel, forward_kernel
from charrnn.cuda.lstm_layout import GATES, SHARED_MEMORY, Layout, layout_for, single_program

if TYPE_CHECKING:
    from charrnn.models.cells import LSTM

_failures: dict[torch.device, Tensor] = {}

FP32_RESULTS = "dtype" in torch.ops.aten.mm.overloads()  # type: ignore[no-untyped-call]  # of products in 16 bits; since torch 2.8
ALIGNED = 8  # numbers: cuBLAS is fast if rows of a matrix are a multiple of 16 bytes apart


def kernel_lstm(
    lstm: LSTM, x: Tensor, h: Tensor, c: Tensor, layout: Layout | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs (N, T, H) of a layer for x (N, T, D), and its state h and c after them, (N, H) each.

    Under autocast products and outputs have its precision; sums and the state are fp32. It can be captured as a CUDA
    graph after it has run once. The result is valid if `failures` is zero.

    Raise InputError on a GPU in fp32, or if rows and units do not fit on the GPU at once. On a CPU, Triton's
    interpreter runs a single program for tests.
    """
    kind = x.device.type
    compute_dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    if layout is None:
        layout = _layout(len(x), lstm.hidden_size, compute_dtype, x.device)
    weights = (lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, h, c, *weights))
    y, h, c = _KernelLSTM.apply(x, h, c, *weights, compute_dtype, layout, keep)  # type: ignore[no-untyped-call]
    return y, h, c


def failures(device: torch.device) -> Tensor:
    """Return the number of programs on a device that reached the limit of spins, an int32 tensor (1,).

    If it is not zero, results since then are wrong. The kernels count on the device, so that reading it is left to
    code that waits for the GPU anyway. The tensor must exist before a CUDA graph is captured.
    """
    if str(device) == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    if device not in _failures:
        _failures[device] = torch.zeros(1, dtype=torch.int32, device=device)
    return _failures[device]


def check_size(n: int, units: int, device: torch.device) -> None:
    """Raise InputError if a GPU has no room for the kernel of n rows and H units in bf16."""
    _layout(n, units, torch.bfloat16, device)


def _layout(n: int, units: int, compute_dtype: torch.dtype, device: torch.device) -> Layout:
    if device.type == "cpu":
        return single_program(n, units)
    if compute_dtype == torch.float32:
        raise InputError("it computes in bf16, and this is fp32.")
    gpu = torch.cuda.get_device_properties(device)
    memory = getattr(gpu, "shared_memory_per_block_optin", SHARED_MEMORY)  # missing in torch 2.6's stubs
    return layout_for(n, units, compute_dtype.itemsize, gpu.multi_processor_count, memory)


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
        compute_dtype: torch.dtype,
        layout: Layout,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, steps, inputs = x.shape
        units = weight_hh.shape[1]
        with torch.autocast(x.device.type, enabled=False):
            rows, w, u = _time_major(x, compute_dtype), _aligned(weight_ih, compute_dtype), weight_hh.to(compute_dtype)
            gates_x = (rows @ w.t()).view(steps, n, GATES, units)
            h, c = h.float().contiguous(), c.float().contiguous()
            outputs, h, c, gates, cells = run_forward(layout, gates_x, u, bias.float(), h, c, keep)
        ctx.save_for_backward(rows, w, u, outputs, gates, cells)
        ctx.layout, ctx.inputs, ctx.dtype = layout, inputs, x.dtype
        ctx.set_materialize_grads(False)
        return outputs[1:].transpose(0, 1), h, c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Backpropagate through time: see `charrnn.models.projected_lstm`, whose layers also have R."""
        rows, w, u, outputs, gates, cells = ctx.saved_tensors
        steps, n, _, units = gates.shape
        y_grad, h_grad, c_grad = grads
        with torch.autocast(rows.device.type, enabled=False):
            if y_grad is None:
                y_grad = outputs.new_zeros(1, 1, units).expand(n, steps, units)
            elif y_grad.stride(2) != 1:
                y_grad = y_grad.contiguous()
            h_grad, c_grad = (grad if grad is None else grad.contiguous() for grad in (h_grad, c_grad))
            s, h0_grad, c0_grad, bias_grad = run_backward(ctx.layout, (y_grad, h_grad, c_grad), u, gates, cells)
            s = s.view(steps * n, GATES * units)
            x_grad = None
            if ctx.needs_input_grad[0]:
                x_grad = (s @ w).view(steps, n, -1)[..., : ctx.inputs].transpose(0, 1).to(ctx.dtype)
            w_grad = _product(s.t(), rows)[:, : ctx.inputs].contiguous()
            u_grad = _product(s.t(), outputs[:-1].view(steps * n, units))
        return x_grad, h0_grad, c0_grad, w_grad, u_grad, bias_grad.flatten(), None, None, None


def _time_major(x: Tensor, compute_dtype: torch.dtype) -> Tensor:
    """Return inputs (N, T, D) as a matrix of T N rows; a view of the outputs of a layer below if they are aligned."""
    return _aligned(x.to(compute_dtype).transpose(0, 1).flatten(0, 1), compute_dtype)


def _aligned(matrix: Tensor, compute_dtype: torch.dtype) -> Tensor:
    """Return a matrix in a type with zero columns up to a multiple of `ALIGNED`."""
    more = -matrix.shape[1] % ALIGNED
    return functional.pad(matrix.to(compute_dtype), (0, more)) if more else matrix.to(compute_dtype)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of two matrices in fp32."""
    if a.is_cuda and a.dtype != torch.float32 and FP32_RESULTS:
        return torch.mm(a, b, out_dtype=torch.float32)
    return (a @ b).float()


def launch(kernel: Any, layout: Layout, hidden_size: int, *arguments: Tensor | int | None) -> None:
    """Launch a kernel cooperatively: the driver rejects it if its programs do not fit on the GPU at the same time."""
    constants, options = compiled_for(layout, hidden_size)
    kernel[(layout.programs,)](*arguments, *constants, **options)


def compiled_for(layout: Layout, hidden_size: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the constants of a kernel and Triton's options for it."""
    constants = (hidden_size, layout.pitch, layout.units, layout.rows, layout.pieces, layout.register_pieces)
    return constants, {"num_warps": layout.warps, "num_stages": 1, "launch_cooperative_grid": True}


def run_forward(
    layout: Layout, gates_x: Tensor, u: Tensor, bias: Tensor, h0: Tensor, c0: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Run the forward kernel on W x, gates_x (T, N, 4, H), and u (4 H, H) in the precision of the products.

    The others are contiguous and fp32: bias (4 H,), h0 and c0 (N, H). Return h0 and the outputs (T + 1, N, H), the last
    h and c (N, H), and if ``keep``, for the backward pass, the gates (T, N, 4, H) and cells (T + 1, N, H), in fp32.
    """
    steps, n, _, units = gates_x.shape
    outputs = gates_x.new_empty(steps + 1, n, units)
    gates = torch.empty_like(gates_x, dtype=torch.float32) if keep else None
    cells = torch.empty_like(outputs, dtype=torch.float32) if keep else None
    h, c = torch.empty_like(h0), torch.empty_like(c0)
    launch(
        forward_kernel,
        layout,
        units,
        *(gates_x, u, bias, h0, c0, h, c, outputs, gates, cells, *_barriers(layout, h0.device)),
        *(n, steps, layout.rows_each, SPIN_LIMIT),
    )
    return outputs, h, c, gates, cells


def run_backward(
    layout: Layout, grads: tuple[Tensor, Tensor | None, Tensor | None], u: Tensor, gates: Tensor, cells: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the gates' inputs (T, N, 4, H), of h0 and c0 (N, H) and of the biases (4, H).

    ``grads`` are those of the outputs (N, T, H), with contiguous rows, and of the last h and c, contiguous or None.
    """
    y_grad, h_grad, c_grad = grads
    n, steps, units = y_grad.shape
    gate_grads = torch.empty_like(gates, dtype=u.dtype)
    h0_grad, c0_grad = gates.new_empty(n, units), gates.new_empty(n, units)
    bias_grad = gates.new_empty(layout.blocks, GATES, units)
    sums = u.new_empty(layout.blocks, 2, layout.pitch // layout.units, layout.pitch, layout.rows)
    launch(
        backward_kernel,
        layout,
        units,
        *(y_grad, y_grad.stride(0), y_grad.stride(1), h_grad, c_grad, u, gates, cells),
        *(gate_grads, h0_grad, c0_grad, bias_grad, sums, *_barriers(layout, u.device)),
        *(n, steps, layout.rows_each, SPIN_LIMIT),
    )
    return gate_grads, h0_grad, c0_grad, bias_grad.sum(0)


def _barriers(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return new barriers, one for each block of rows, and the count of failures."""
    return torch.zeros(layout.blocks * LINE.value, dtype=torch.int32, device=device), failures(device)
