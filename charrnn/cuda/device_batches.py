"""Batches from a copy of the training part in a GPU's memory, which need no transfer from the host."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from charrnn.data.batches import ContiguousBatches
from charrnn.data.vocab import Ids

BLOCK = 1 << 26  # symbols that are copied at a time
SHARE = 0.5  # maximum fraction of the free memory


class DeviceBatches:
    """The batches of a `ContiguousBatches`, from a copy of its part on a device, for N rows of all processes."""

    def __init__(self, ids: Ids, batches: ContiguousBatches, rows: int, device: str) -> None:
        kind = _device_dtype(ids)
        dtype = torch.from_numpy(np.empty(0, kind)).dtype
        table = torch.empty(len(ids), dtype=dtype, device=device)
        for start in range(0, len(ids), BLOCK):
            table[start : start + BLOCK] = torch.from_numpy(ids[start : start + BLOCK].astype(kind))
        self._length, self._context = batches.row_length, batches.context
        shape = (rows, self._length + self._context.max_lag)
        self._rows = table.as_strided(shape, (self._length, 1))[batches.own]
        self._dtype = dtype if dtype == torch.int16 else torch.int64

    def at(self, position: int, steps: int) -> tuple[Tensor, Tensor]:
        """Return what `ContiguousBatches.at` returns, on the device."""
        start = position % self._length
        piece = self._rows[:, start : start + self._context.max_lag + steps]
        x, y = piece[:, : piece.shape[1] - self._context.min_lag], piece[:, self._context.max_lag :]
        return x.to(self._dtype), y.to(self._dtype)


def place_batches(ids: Ids, batches: ContiguousBatches, rows: int, device: str) -> ContiguousBatches | DeviceBatches:
    """Return the batches on an NVIDIA GPU if it has enough memory for them; otherwise return them unchanged."""
    if device != "cuda":
        return batches
    free, _ = torch.cuda.mem_get_info()
    fits = len(ids) * _device_dtype(ids).itemsize <= SHARE * free
    return DeviceBatches(ids, batches, rows, device) if fits else batches


def _device_dtype(ids: Ids) -> np.dtype[np.generic]:
    """Return the type on the device: uint8 and int16 as they are, others as int32."""
    return ids.dtype if ids.dtype in (np.uint8, np.int16) else np.dtype(np.int32)
