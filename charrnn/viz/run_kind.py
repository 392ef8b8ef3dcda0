"""Differences between runs on symbols and runs of the frame predictor, for whatever shows runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError
from bytecodec.pcm import decode_mulaw
from charrnn.storage.run_dir import is_frames

BITS = 1 / math.log(2)  # bits per nat
BITS_COLUMNS = {"train_loss": "train_bits", "val_loss": "val_bits"}  # columns with the same losses in bits
MEAN_SQUARE = "mean squared error"
#: Units of a frame predictor's losses: by the name of the loss, and in bits.
FRAME_LOSSES = {"mse": MEAN_SQUARE, "gaussian": "nats of density per sample"}
FRAME_BITS = "bits per 16-bit sample"


@dataclass(frozen=True)
class RunKind:
    """Units and formats of a kind of run.

    Attributes
    ----------
    loss_unit, bits_unit
        Units of the losses as trained, and in bits.
    display_unit
        Unit of bits in reports, which name what a symbol is: "bits per sample" of sound.
    is_nats_per_symbol
        Whether losses are converted to bits, and FLAC's bits to nats, by `BITS`.
    sample_bytes
        Size of a sample in corpus.bin.
    sample_name
        Description of the samples that the network is trained on.
    """

    loss_unit: str
    bits_unit: str
    display_unit: str
    is_nats_per_symbol: bool = True
    sample_bytes: int = 1
    sample_name: str = "8-bit samples"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> RunKind:
        """Return the kind of a run, given its config.json; {} for a log outside a run."""
        if not is_frames(config):
            display_unit = "bits per sample" if config.get("rate") else "bits per character"
            return cls("nats per symbol", "bits per symbol", display_unit)
        loss = "mse" if model_config(config).get("loss") == "mse" else "gaussian"
        return cls(FRAME_LOSSES[loss], FRAME_BITS, FRAME_BITS, False, 2, "16-bit samples")

    def unit(self, unit: str) -> str:
        """Return the full name of a unit, "nats" (the loss as trained) or "bits"."""
        return self.bits_unit if unit == "bits" else self.loss_unit

    def column(self, file: Path, header: Sequence[str], loss: str, unit: str) -> tuple[str, float]:
        """Return the column of a CSV file that holds a loss in a unit, and the factor for its values.

        charrnn-train logs each loss as it was trained and in bits. A loss in a file of another program is in nats.

        Raises
        ------
        InputError
            The file is of a frame predictor, whose loss cannot be converted, and lacks the column of bits.
        """
        if unit != "bits":
            return loss, 1.0
        if (column := BITS_COLUMNS.get(loss, "")) in header:
            return column, 1.0
        if not self.is_nats_per_symbol:
            raise InputError(
                f"{file} has no column {column!r}, and the loss of a frame predictor cannot be converted to bits."
            )
        return loss, BITS

    def flac(self, bits: float | None, unit: str) -> float | None:
        """Return FLAC's bits per sample in the unit of the losses; None if they cannot be compared."""
        if bits is None or unit == "bits":
            return bits
        return bits / BITS if self.is_nats_per_symbol else None

    def samples(self, data: NDArray[np.uint8], encoding: str) -> NDArray[np.float32]:
        """Return the samples (n,), full scale 1, of bytes of corpus.bin."""
        if self.sample_bytes == 2:
            return np.asarray(data.view("<i2") / 32768, np.float32)
        return np.asarray(decode_mulaw(data) / 32768 if encoding == "mulaw" else (data - 128.0) / 128, np.float32)

    def settings(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Return the rows of a table of settings that this kind of network alone has."""
        model = model_config(config)
        if self.is_nats_per_symbol:
            return {"Embedding size": str(model.get("wordvec_size", "?"))}
        context = f"{model.get('taps', '?')} samples, {model.get('spacing', '?')} apart"
        return {"Context": context, "Loss": str(model.get("loss", "?"))}


def model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's part of config.json; {} if there is none."""
    model = config.get("model")
    return model if isinstance(model, dict) else {}
