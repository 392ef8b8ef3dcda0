"""One training step: forward, backward, clip, Adam. It works in place and does not wait for the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bytecodec.console import log
from bytecodec.errors import first_line
from charrnn.cuda import graphs
from charrnn.cuda.backends import Backend, loss_scale
from charrnn.cuda.graphs import Work
from charrnn.models.char_rnn import Layers, State, copy_state
from charrnn.models.config import map_state
from charrnn.runtime import autocast
from charrnn.training.recipe import Settings

WARM_UP = 3  # steps that run without a graph before one is captured

Reduce = Callable[[Sequence[Tensor]], None]


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return AdamW for the parameters of a network. Only matrices decay. On a GPU the rate is a tensor on the GPU."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    on_gpu = parameters[0].is_cuda
    rate: Any = torch.tensor(settings.learning_rate, device=parameters[0].device) if on_gpu else settings.learning_rate
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, float(settings.beta2)), fused=True, capturable=on_gpu)


def make_step(
    model: Layers, optimizer: torch.optim.Optimizer, settings: Settings, backend: Backend, reduce: Reduce | None
) -> Step:
    """Return a step, which is a CUDA graph on an NVIDIA GPU unless gradients are reduced over several processes."""
    if reduce is None and graphs.graphs_enabled(settings.device):
        return GraphedStep(model, optimizer, settings, backend=backend)
    return Step(model, optimizer, settings, reduce, backend)


class Step:
    """A function that trains a network on one batch per call.

    ``reduce`` replaces gradients and loss by their means over all processes (None for a single process). ``backend`` is
    the one that is installed in the network (None for torch's layers).
    """

    def __init__(
        self,
        model: Layers,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        reduce: Reduce | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.model, self.optimizer, self.settings, self.reduce = model, optimizer, settings, reduce
        self.backend = backend or Backend()
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.scale = loss_scale(settings.precision, settings.device, settings.batch_size * settings.seq_length)

    def __call__(self, x: Tensor, y: Tensor, state: State, rate: float) -> tuple[Tensor, State]:
        """Train on a batch x (N, ·), y (N, T) that follows a state, at a learning rate.

        Return (2,) the loss in nats and the norm of the gradient before clipping, and the state after the batch, in
        fp32 and without gradients. If loss or norm is not finite, weights and moments are unchanged.
        """
        self._set_rate(rate)
        return self._train(x, y, state)

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _train(self, x: Tensor, y: Tensor, state: State) -> tuple[Tensor, State]:
        with autocast(self.settings.precision, self.settings.device):
            loss, state = self.model.loss(x, y, state)
        self.optimizer.zero_grad()
        (loss * self.scale if self.scale != 1 else loss).backward()  # type: ignore[no-untyped-call]
        loss = self.backend.mask(loss.detach())
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.reduce:
            self.reduce([*gradients, loss])
        norm = nn.utils.get_total_norm(gradients) / self.scale
        outcome = torch.stack((loss, norm))
        self._clip(gradients, norm)
        self.optimizer.found_inf = 1 - outcome.isfinite().all().float()  # type: ignore[attr-defined]
        self.optimizer.step()  # has no effect if found_inf is 1
        return outcome, map_state(lambda tensor: tensor.detach().float(), state)

    def _clip(self, gradients: list[Tensor], norm: Tensor) -> None:
        """Clip each element of the gradient, or its norm (Pascanu, Mikolov and Bengio 2013).

        The optimizer divides by the norm and the loss scale while it reads the gradient, which saves a pass over it.
        """
        limit, divisor = self.settings.grad_clip, torch.full_like(norm, self.scale)
        if limit and self.settings.clip == "value":
            torch._foreach_clamp_min_(gradients, -limit * self.scale)
            torch._foreach_clamp_max_(gradients, limit * self.scale)
        elif limit:
            divisor *= (norm / limit).clamp(min=1)
        self.optimizer.grad_scale = divisor  # type: ignore[attr-defined]


class GraphedStep(Step):
    """The same step as a CUDA graph, after some steps without one: the same numbers, in one call instead of hundreds.

    Batch and state are copied to the graph's inputs. The state that it returns is the graph's output, which the next
    step overwrites. ``warm_up`` runs work before ``capture`` captures it.
    """

    def __init__(
        self,
        model: Layers,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        warm_up: Callable[[Work], None] = graphs.warm_up_on_side_stream,
        capture: Callable[[Work], Work] = graphs.capture,
        backend: Backend | None = None,
    ) -> None:
        super().__init__(model, optimizer, settings, backend=backend)
        self._warm_up, self._capture = warm_up, capture
        self._warm_up_steps = 0
        self._replay: Work | None = None

    def __call__(self, x: Tensor, y: Tensor, state: State, rate: float) -> tuple[Tensor, State]:
        if self._warm_up_steps == 0:
            self._x, self._y = x.clone(), y.clone()
            self._state = map_state(Tensor.clone, state)
            self._outcome = torch.zeros(2, device=x.device)
        self._set_rate(rate)
        self._x.copy_(x)
        self._y.copy_(y)
        copy_state(state, self._state)
        if self._warm_up_steps < WARM_UP:
            self._warm_up_steps += 1
            self._warm_up(self._train_in_place)
        else:
            if self._replay is None:
                self._replay = self._captured()
            self._replay()
        return self._outcome.clone(), self._state

    def _captured(self) -> Work:
        try:
            return self._capture(self._train_in_place)
        except RuntimeError as error:  # a driver or a version of torch that cannot capture one of the kernels
            reason = first_line(error)
            log(f"the step cannot be captured as a CUDA graph ({reason}): training continues without one, more slowly.")
            return self._train_in_place

    def _train_in_place(self) -> None:
        outcome, state = self._train(self._x, self._y, self._state)
        self._outcome.copy_(outcome)
        copy_state(state, self._state)
