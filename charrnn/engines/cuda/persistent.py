"""Sampling by the persistent kernel (`persistent_kernel.py`): packing of LSTM networks, and launches."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from bytecodec.errors import InputError
from charrnn.cuda.grid_barrier import SPIN_LIMIT
from charrnn.cuda.lstm_layout import power_of_two, round_up
from charrnn.engines.cuda import persistent_kernel
from charrnn.models.char_rnn import CharRNN, State

MAX_SYMBOLS = 4096  # a program samples from all of them at once
MAX_WEIGHTS = 2**31  # indices are 32-bit numbers
MAX_ROWS = 64  # streams per item
MAX_UNITS = 2048  # inputs whose weights a program of one stream can load before it waits
PITCH = 64  # divisor of the padded length of matrix rows, and inputs per step of a product's loop
PRELOAD = 1 << 15  # bytes of weights in the registers of a program that waits: 64 registers per thread
WARP, VECTOR = 32, 16  # threads of a warp, and bytes that a thread reads at a time
WARPS, REGISTERS = 4, 255  # warps per program, and registers per thread at most
PER_MULTIPROCESSOR = 2  # programs that fit at the same time: 128 threads of 255 registers each
SHARED = 228 << 10  # bytes of shared memory of a Hopper multiprocessor
RESERVED = 4 << 10  # bytes of a program's part that the loop of products cannot use
MAX_STAGES = 6  # steps that the loop prefetches at most
STEPS = 2048  # per launch, so that the counters of the barriers stay small


class Plan(NamedTuple):
    """Division of the work of a phase into items; see the kernel."""

    rows: int  # streams per item
    units: int  # units per item of a layer
    logits: int  # logits per item of the output layer
    inputs: int  # inputs per step of a product's loop
    programs: int
    stages: int  # steps that a product's loop prefetches


class Packed(NamedTuple):
    """A network's weights as the kernel reads them, PITCH long in the last dimension.

    Normalisation is folded into what reads it: W (gamma * z + beta) + b = (W gamma) z + (W beta + b). So is the
    embedding into the first layer: E W' + b has the gates of every symbol.
    """

    base: Tensor  # (V, 4H) fp32
    bias: Tensor  # (L, 4H) fp32
    w: Tensor  # (L, 4H, PITCH)
    w_sums: Tensor  # (L, 4H) fp32
    u: Tensor  # (L, 4H, PITCH)
    out: Tensor  # (V, PITCH)
    out_sums: Tensor  # (V,) fp32
    out_bias: Tensor  # (V,) fp32


def supports(model: CharRNN) -> bool:
    """Return whether the kernel supports a network."""
    config = model.config
    weights = 4 * config.layers * config.rnn_size * round_up(config.rnn_size, PITCH)
    small = config.vocab_size <= MAX_SYMBOLS and config.rnn_size <= MAX_UNITS and weights < MAX_WEIGHTS
    return config.cell == "lstm" and small and not config.reads_samples


@torch.no_grad()
def pack(model: CharRNN, dtype: torch.dtype) -> Packed:
    """Return a network's weights in the layout of the kernel and the type of the products."""
    config, first = model.config, model.layers[0]
    base = model.embedding.weight @ first.weight_ih_l0.T + first.bias_ih_l0
    ws, biases = [torch.zeros_like(first.weight_hh_l0)], [torch.zeros_like(first.bias_ih_l0)]
    for i in range(1, config.layers):
        w, bias = _fold_norm(model, i, model.layers[i].weight_ih_l0, model.layers[i].bias_ih_l0)
        ws.append(w)
        biases.append(bias)
    out, out_bias = _fold_norm(model, config.layers, model.output.weight, model.output.bias)
    w, out = _wide(torch.stack([_by_unit(w) for w in ws]), dtype), _wide(out, dtype)
    return Packed(
        _by_unit(base.T).T.contiguous(),
        torch.stack([_by_unit(bias[:, None])[:, 0] for bias in biases]),
        w,
        w.double().sum(2).float(),
        _wide(torch.stack([_by_unit(layer.weight_hh_l0) for layer in model.layers]), dtype),
        out,
        out.double().sum(1).float(),
        out_bias.detach().clone(),
    )


def plan(units: int, streams: int, size: int, programs: int, shared: int = SHARED) -> Plan:
    """Return the division of the work for weights of ``size`` bytes.

    ``programs`` fit on the GPU at the same time, and `PER_MULTIPROCESSOR` of them share ``shared`` bytes.
    """
    pitch = round_up(units, PITCH)
    if streams == 1:
        item_units = PRELOAD // (4 * power_of_two(pitch) * size)
        rows, item_units, logits, inputs = 1, max(1, min(4, item_units)), 4, WARP * VECTOR // size
    else:
        inputs, rows, logits = PITCH, min(MAX_ROWS, max(16, power_of_two(streams))), 16
        item_units = 4 if rows < 64 else 8
    items = -(-units // item_units) * -(-streams // rows)
    stage = (rows + max(4 * item_units, logits)) * inputs * size  # bytes
    stages = max(2, min(MAX_STAGES, (shared // PER_MULTIPROCESSOR - RESERVED) // stage))
    return Plan(rows, item_units, logits, inputs, min(programs, items), stages)


class PersistentSampler:
    """Network in the kernel, with the state of its streams.

    ``dtype`` is that of weights, products and of h between steps. `run` updates ``last`` (n,). At most
    ``programs`` programs are launched (None: as many as fit at the same time).
    """

    def __init__(
        self, model: CharRNN, dtype: torch.dtype, last: Tensor, temperatures: Tensor, programs: int | None = None
    ) -> None:
        config, self._n, device = model.config, len(last), last.device
        self._packed, self._last, self._temperatures = pack(model, dtype), last, temperatures
        shape = (config.layers, self._n, config.rnn_size)
        self._h, self._c = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        self._h_buffers = torch.zeros(2, *shape[:2], self._packed.u.shape[2], dtype=dtype, device=device)
        self._logits = torch.empty(self._n, config.vocab_size, device=device)
        self._barriers = torch.zeros(config.layers + 2, persistent_kernel.LINE.value, dtype=torch.int32, device=device)
        self._failed = torch.zeros(1, dtype=torch.int32, device=device)
        fitting, shared = capacity(device)
        self.plan = plan(config.rnn_size, self._n, dtype.itemsize, programs or fitting, shared)
        self._constants = constants(model, self.plan)

    @property
    def state(self) -> State:
        """State of the streams, which may be written to."""
        return tuple(zip(self._h, self._c, strict=True))

    def run(self, kind: str, feed: Tensor) -> Tensor:
        """Run a step for each row of the feed (T, n); return the symbols (T, n), or for read their log-probabilities.

        The kind is draw (the feed is float64 uniform numbers), likeliest (only the length of the feed counts), or read
        (the feed is int64 symbols).
        """
        feed = feed.contiguous()
        ids, scores = torch.empty_like(feed, dtype=torch.int64), torch.empty_like(feed, dtype=torch.float64)
        for start in range(0, len(feed), STEPS):
            part = slice(start, start + STEPS)
            self._h_buffers[0, :, :, : self._h.shape[2]].copy_(self._h)
            self._barriers.zero_()
            self._launch(
                *(*self._packed, self._h_buffers, self._c, self._logits, self._last, feed[part], self._temperatures),
                *(ids[part], scores[part], self._barriers, self._failed, len(feed[part]), self._n, SPIN_LIMIT),
                KIND=persistent_kernel.KINDS[kind],
                **self._constants,
            )
            self._h.copy_(self._h_buffers[len(feed[part]) % 2, :, :, : self._h.shape[2]])
        return scores if kind == "read" else ids

    def check(self) -> None:
        """Raise InputError if a barrier has ever timed out: results since then are wrong."""
        if self._failed.item():
            raise InputError("a barrier of the GPU's kernel timed out: sample with --engine auto.")

    def _launch(self, *arguments: Any, **constants: Any) -> None:
        persistent_kernel.sample_steps[(self.plan.programs,)](*arguments, **constants, **launch_options(self.plan))


def constants(model: CharRNN, plan: Plan) -> dict[str, Any]:
    """Return the constants of the kernel, except for the kind of choice."""
    config: Any = model.config
    return {
        "LAYERS": config.layers,
        "UNITS": config.rnn_size,
        "SYMBOLS": config.vocab_size,
        "PITCH": round_up(config.rnn_size, PITCH),
        "EPSILON": model.norms[0].eps if config.layer_norm else 0.0,
        "NORMED": config.layer_norm,
        "ROWS": plan.rows,
        "ITEM_UNITS": plan.units,
        "ITEM_LOGITS": plan.logits,
        "INPUTS": plan.inputs,
    }


def launch_options(plan: Plan) -> dict[str, Any]:
    """Return Triton's options for the kernel."""
    return {
        "num_warps": WARPS,
        "num_stages": plan.stages,
        "maxnreg": REGISTERS,
        "launch_cooperative_grid": True,  # rejected if the programs do not fit at the same time
    }


def capacity(device: torch.device) -> tuple[int, int]:
    """Return the number of programs that fit on a device at once, and a multiprocessor's shared memory in bytes."""
    if device.type != "cuda":  # Triton's interpreter
        return 1, SHARED
    card = torch.cuda.get_device_properties(device)
    return PER_MULTIPROCESSOR * card.multi_processor_count, getattr(card, "shared_memory_per_multiprocessor", SHARED)


def _fold_norm(model: CharRNN, above: int, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the layer number ``above`` with the normalisation of the layer below folded in."""
    if not model.config.layer_norm:
        return weight, bias
    norm: Any = model.norms[above - 1]
    return weight * norm.weight, bias + weight @ norm.bias


def _by_unit(gates: Tensor) -> Tensor:
    """Return rows (4H, ·), ordered by gate, in the order of units."""
    return gates.view(4, -1, gates.shape[1]).transpose(0, 1).reshape(gates.shape).contiguous()


def _wide(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a matrix with rows padded by zeros, so that they are read sixteen bytes at a time."""
    more = round_up(weight.shape[-1], PITCH) - weight.shape[-1]
    return functional.pad(weight.to(dtype), (0, more)).contiguous()
