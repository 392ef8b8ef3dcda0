"""LSTM layers with a projection, for training on a CPU.

torch has no fused kernel for them on a CPU: it runs a dozen small operations per step, stores their inputs for the
gradient, and sums the gradients of all weights in every step. Here a step is eight operations in place, its backward
pass six, and the gradient of a weight is one product over all steps. Rows are independent of each other, so each thread
computes some rows for all steps; threads that share every small operation would mostly wait for each other.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


def projected_lstm(x: Tensor, state: Tensors, weights: Tensors) -> tuple[Tensor, Tensors]:
    """Return the outputs r (N, T, P) of a layer for x (N, T, D), and its state (r (N, P), c (N, H)) after them.

    The weights are W (4H, D), U (4H, P), b (4H,) and R (P, H) of `charrnn.models.cells.LSTMP`. Under autocast products
    have its precision; gates and c, which accumulate over the steps, have that of the state.
    """
    compute_dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    with torch.autocast("cpu", enabled=False):
        y, *state_after = _ProjectedLSTM.apply(x, *state, *weights, compute_dtype)  # type: ignore[no-untyped-call]
    return y, tuple(state_after)


class _ProjectedLSTM(torch.autograd.Function):
    """The layer as an autograd function. Tensors inside are time-major, (T, N, ...), so that a step is contiguous."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        r: Tensor,
        c: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias: Tensor,
        weight_hr: Tensor,
        compute_dtype: torch.dtype,
    ) -> Tensors:
        (n, steps, _), units = x.shape, c.shape[1]
        x, weight_ih, weight_hh, weight_hr = (
            tensor.to(compute_dtype) for tensor in (x.transpose(0, 1), weight_ih, weight_hh, weight_hr)
        )
        gates = (x.flatten(0, 1) @ weight_ih.t()).to(bias.dtype).add_(bias).view(steps, n, 4 * units)
        cells, outputs = c.new_empty(steps + 1, n, units), x.new_empty(steps + 1, n, len(weight_hr))
        hidden, tanh_cells = c.new_empty(steps, n, units), c.new_empty(steps, n, units)  # h and tanh(c)
        cells[0], outputs[0] = c, r
        _by_rows(functools.partial(_forward, weight_hh, weight_hr), gates, cells, outputs, hidden, tanh_cells)
        ctx.save_for_backward(x, weight_ih, weight_hh, weight_hr, gates, cells, outputs, hidden, tanh_cells)
        return outputs[1:].transpose(0, 1), outputs[-1].to(r.dtype), cells[-1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Backpropagate through time. With a' for dL/da and s_t for the inputs of the gates:

        h_t' = R^T r_t',  c_t' = c_(t+1)' f_(t+1) + h_t' o (1 - tanh(c_t)^2),  r_(t-1)' = y_(t-1)' + U^T s_t'
        s_t' = (c_t' g i (1 - i),  c_t' c_(t-1) f (1 - f),  c_t' i (1 - g^2),  h_t' tanh(c_t) o (1 - o))
        """
        x, weight_ih, weight_hh, weight_hr, gates, cells, outputs, hidden, tanh_cells = ctx.saved_tensors
        y_grad, r_grad, c_grad = gradients
        compute_dtype, n = weight_ih.dtype, gates.shape[1]
        i, f, g, o = gates.chunk(4, dim=2)
        s_grads = torch.empty_like(gates)  # at first only the factors of c' and h'
        from_i, from_f, from_g, from_o = s_grads.chunk(4, dim=2)
        torch.mul(g, i * (1 - i), out=from_i)
        torch.mul(cells[:-1], f * (1 - f), out=from_f)
        torch.mul(i, 1 - g * g, out=from_g)
        torch.mul(tanh_cells, o * (1 - o), out=from_o)
        c_from_h = o * (1 - tanh_cells * tanh_cells)
        r_grads = y_grad.transpose(0, 1).to(gates.dtype, copy=True).contiguous()
        r_grads[-1] += r_grad
        c_grad = c_grad.clone()
        _by_rows(functools.partial(_backward, weight_hh, weight_hr), f, c_from_h, s_grads, r_grads, c_grad[None])
        s_all, r_all = s_grads.flatten(0, 1).to(compute_dtype), r_grads.flatten(0, 1).to(compute_dtype)
        return (
            (s_all @ weight_ih).view(x.shape).transpose(0, 1) if ctx.needs_input_grad[0] else None,
            (s_all[:n] @ weight_hh).to(gates.dtype),
            c_grad,
            (s_all.t() @ x.flatten(0, 1)).to(gates.dtype),
            (s_all.t() @ outputs[:-1].flatten(0, 1)).to(gates.dtype),
            s_grads.sum((0, 1)),
            (r_all.t() @ hidden.flatten(0, 1).to(compute_dtype)).to(gates.dtype),
            None,
        )


@torch.no_grad()
def _forward(
    weight_hh: Tensor,
    weight_hr: Tensor,
    gates: Tensor,
    cells: Tensor,
    outputs: Tensor,
    hidden: Tensor,
    tanh_cells: Tensor,
) -> None:
    """Compute all steps of some rows; gates (T, N, 4H) hold W x_t + b, the first cells and outputs hold the state."""
    units = hidden.shape[2]
    by_step = (gates, *gates.chunk(4, dim=2), gates[..., : 2 * units], cells[:-1], cells[1:], tanh_cells, hidden)
    for t, (all_four, i, f, g, o, i_and_f, c_before, c, tanh_c, h) in enumerate(zip(*by_step, strict=True)):
        _add_product(all_four, outputs[t], weight_hh.t())
        i_and_f.sigmoid_()
        g.tanh_()
        o.sigmoid_()
        torch.mul(f, c_before, out=c)
        c.addcmul_(i, g)
        torch.tanh(c, out=tanh_c)
        torch.mul(o, tanh_c, out=h)
        torch.mm(h.to(outputs.dtype), weight_hr.t(), out=outputs[t + 1])


@torch.no_grad()
def _backward(
    weight_hh: Tensor, weight_hr: Tensor, f: Tensor, c_from_h: Tensor, s_grads: Tensor, r_grads: Tensor, c_grads: Tensor
) -> None:
    """Compute the gradients of the gates' inputs, of r, and of c (1, N, H), of some rows for all steps."""
    units, c_grad = f.shape[2], c_grads[0]
    from_c, from_h = s_grads[..., : 3 * units].view(*f.shape[:2], 3, units), s_grads[..., 3 * units :]
    for t in reversed(range(len(f))):
        h_grad = r_grads[t].to(weight_hr.dtype) @ weight_hr
        c_grad.addcmul_(h_grad, c_from_h[t])
        from_c[t].mul_(c_grad[:, None])
        from_h[t].mul_(h_grad)
        c_grad.mul_(f[t])
        if t:
            _add_product(r_grads[t - 1], s_grads[t], weight_hh)


def _add_product(to: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b in place; the product has the precision of b."""
    if to.dtype == b.dtype:
        to.addmm_(a, b)
    else:
        to.add_(a.to(b.dtype) @ b)


def _by_rows(work: Callable[..., None], *tensors: Tensor) -> None:
    """Call a function that changes tensors (·, N, ...) in place, with an equal share of the rows in each thread."""
    threads = torch.get_num_threads()
    parts = [tensor.chunk(threads, dim=1) for tensor in tensors]
    if len(parts[0]) == 1:
        work(*tensors)
    else:
        for _ in _pool(threads).map(work, *parts):
            pass


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool of threads in which torch uses one thread each."""
    pool, barrier = ThreadPoolExecutor(threads, "rows"), threading.Barrier(threads)
    for future in [pool.submit(_use_one_thread, barrier) for _ in range(threads)]:
        future.result()
    torch.set_num_threads(threads)  # threads that start later inherit the last value
    return pool


def _use_one_thread(barrier: threading.Barrier) -> None:
    torch.get_num_threads()  # set_num_threads has no effect on a thread that has not read the number before
    torch.set_num_threads(1)
    barrier.wait()  # so that each thread of the pool runs this function once
