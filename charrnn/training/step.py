"""One step of learning from a batch: forward, backward, clip, Adam. It works in place, and waits for nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bytecodec.console import log
from bytecodec.errors import first_line
from charrnn.cuda import graphs
from charrnn.cuda.graphs import Work
from charrnn.models.char_rnn import Layers, State
from charrnn.runtime import autocast
from charrnn.training.recipe import Settings

WARM_UP = 3  # steps that are run without a graph before one is captured

Reduce = Callable[[Sequence[Tensor]], None]


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Adam for what a network learns; matrices decay, biases don't. On a GPU its rate is a number there, too."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    on_gpu = parameters[0].is_cuda
    rate: Any = torch.tensor(settings.learning_rate, device=parameters[0].device) if on_gpu else settings.learning_rate
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, float(settings.beta2)), fused=True, capturable=on_gpu)


class Step:
    """Learn from one batch after another.

    Parameters
    ----------
    model, optimizer
        Changed in place.
    settings
        Precision, device, and how the gradient is limited.
    reduce
        Puts the mean over all processes in the place of gradients and loss.
    """

    def __init__(
        self,
        model: Layers,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        reduce: Reduce = lambda tensors: None,
    ) -> None:
        self.model, self.optimizer, self.settings, self.reduce = model, optimizer, settings, reduce
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.scale = loss_scale(settings)

    def __call__(self, x: Tensor, y: Tensor, state: State, rate: float) -> tuple[Tensor, State]:
        """Learn at a rate from a batch (N, ·), (N, T) that follows a state.

        Returns
        -------
        outcome
            (2,) the loss in nats and the gradient's norm before it was limited. Where either is not finite, nothing was
            learnt: weights and moments are as they were.
        state
            After the batch, in fp32; no gradient flows back through it.
        """
        self._set_rate(rate)
        return self._learn(x, y, state)

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _learn(self, x: Tensor, y: Tensor, state: State) -> tuple[Tensor, State]:
        settings = self.settings
        with autocast(settings.precision, settings.device):
            loss, state = self.model.loss(x, y, state)
        self.optimizer.zero_grad()
        (loss * self.scale if self.scale != 1 else loss).backward()  # type: ignore[no-untyped-call]
        loss = self._spoilt(loss.detach())
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.reduce([*gradients, loss])
        norm = nn.utils.get_total_norm(gradients) / self.scale
        outcome = torch.stack((loss, norm))
        self._limit(gradients, norm)
        self.optimizer.found_inf = 1 - outcome.isfinite().all().float()  # type: ignore[attr-defined]
        self.optimizer.step()  # which does nothing then
        return outcome, tuple(tuple(tensor.detach().float() for tensor in layer) for layer in state)

    def _spoilt(self, loss: Tensor) -> Tensor:
        """Not a number, if the device says that it could not do the work, forward or backward: then nothing is learnt,
        and the loop hears of it where it hears of any loss that is not finite."""
        if self.model.failures is None:
            return loss
        return loss.masked_fill(self.model.failures(loss.device).ne(0).any(), math.nan)

    def _limit(self, gradients: list[Tensor], norm: Tensor) -> None:
        """Limit each element of the gradient, or its norm (Pascanu, Mikolov and Bengio 2013): of the latter, and of
        the loss's scale, Adam takes care while it reads the gradient anyway."""
        limit, divisor = self.settings.grad_clip, torch.full_like(norm, self.scale)
        if limit and self.settings.clip == "value":
            torch._foreach_clamp_min_(gradients, -limit * self.scale)
            torch._foreach_clamp_max_(gradients, limit * self.scale)
        elif limit:
            divisor *= (norm / limit).clamp(min=1)
        self.optimizer.grad_scale = divisor  # type: ignore[attr-defined]


class GraphedStep(Step):
    """The same step in a CUDA graph, after some steps without one: the same numbers, by one call instead of hundreds.

    Batch and state are copied to the graph's inputs. The state that it returns is the graph's output, which the next
    step overwrites.

    Parameters
    ----------
    warm_up, capture
        How work is run before it is captured, and how it is captured.
    """

    def __init__(
        self,
        model: Layers,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        warm_up: Callable[[Work], None] = graphs.warm_up_on_side_stream,
        capture: Callable[[Work], Work] = graphs.capture,
    ) -> None:
        super().__init__(model, optimizer, settings)
        self._warm_up, self._capture = warm_up, capture
        self._warm = 0
        self._replay: Work | None = None

    def __call__(self, x: Tensor, y: Tensor, state: State, rate: float) -> tuple[Tensor, State]:
        """Learn at a rate from a batch, as `Step` does."""
        if self._warm == 0:
            self._x, self._y = x.clone(), y.clone()
            self._state = tuple(tuple(t.clone() for t in layer) for layer in state)
            self._outcome = torch.zeros(2, device=x.device)
        self._set_rate(rate)
        self._x.copy_(x)
        self._y.copy_(y)
        _put(state, self._state)
        if self._warm < WARM_UP:
            self._warm += 1
            self._warm_up(self._in_place)
        else:
            if self._replay is None:
                self._replay = self._captured()
            self._replay()
        return self._outcome.clone(), self._state

    def _captured(self) -> Work:
        try:
            return self._capture(self._in_place)
        except RuntimeError as error:  # a driver or a version of torch that cannot capture one of the kernels
            reason = first_line(error)
            log(f"the step cannot be captured as a CUDA graph ({reason}): training goes on without one, more slowly.")
            return self._in_place

    def _in_place(self) -> None:
        outcome, state = self._learn(self._x, self._y, self._state)
        self._outcome.copy_(outcome)
        _put(state, self._state)


def kernel_failed(model: Layers) -> bool:
    """Return whether the kernel of `charrnn.cuda.backends` failed in some step. It waits for the device."""
    return model.failures is not None and bool(model.failures(next(model.parameters()).device).ne(0).any())


def _put(state: State, place: State) -> None:
    """Write a state into the tensors of another one."""
    for layer, places in zip(state, place, strict=True):
        for tensor, target in zip(layer, places, strict=True):
            if tensor is not target:
                target.copy_(tensor)


def loss_scale(settings: Settings) -> float:
    """By what the loss is multiplied before the backward pass, and gradients divided after it: a power of two.

    On a GPU torch's autocast computes recurrent layers in fp16 (PyTorch's AutocastRNN.cpp), which has no numbers below
    6e-8 but 0.
    The gradient of a mean over N T symbols is that small in places, that of their sum is not: so N T, nearly. A power
    of two changes no digit of anything else.
    """
    if settings.device != "cuda" or settings.precision == "fp32":
        return 1.0
    return 2.0 ** round(math.log2(settings.batch_size * settings.seq_length))
