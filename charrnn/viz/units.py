"""Units and formats in which runs on symbols and runs of the frame predictor differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec.errors import InputError
from bytecodec.pcm import bytes_to_int16
from charrnn.storage.run_dir import Run, is_frames

BITS = 1 / math.log(2)  # bits per nat
BITS_COLUMNS = {"train_loss": "train_bits", "val_loss": "val_bits"}  # columns with the same losses in bits
MAX_BITS = 1e6  # per sample; larger values are not measurements
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
    is_frames
        Whether the network is a frame predictor, of 16-bit samples, whose losses are not in nats per symbol.
    flac_bits
        FLAC's bits per sample on the validation part; None if unknown.
    """

    loss_unit: str
    bits_unit: str
    display_unit: str
    is_frames: bool = False
    flac_bits: float | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> RunKind:
        """Return the kind of a run, given its config.json; {} for a log outside a run."""
        flac = config.get("yardsticks", {}).get("flac", math.nan)
        flac = float(flac) if abs(flac) < MAX_BITS else None
        if not is_frames(config):
            display_unit = "bits per sample" if config.get("rate") else "bits per character"
            return cls("nats per symbol", "bits per symbol", display_unit, False, flac)
        loss = "mse" if config.get("model", {}).get("loss") == "mse" else "gaussian"
        return cls(FRAME_LOSSES[loss], FRAME_BITS, FRAME_BITS, True, flac)

    @classmethod
    def of_run(cls, run: Run, on_message: Callable[[str], object] = str) -> RunKind:
        """Return the kind of a run, whose config.json may be missing; a damaged one is reported."""
        config: dict[str, Any] = {}
        if run.config_file.exists():
            try:
                config = run.config()
            except (InputError, OSError) as error:
                on_message(f"{str(error).rstrip('.')}: units may be wrong, and FLAC is not shown.")
        return cls.of(config)

    @property
    def sample_bytes(self) -> int:
        """Size of a sample in corpus.bin."""
        return 2 if self.is_frames else 1

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
        if self.is_frames:
            raise InputError(
                f"{file} has no column {column!r}, and the loss of a frame predictor cannot be converted to bits."
            )
        return loss, BITS

    def flac(self, unit: str) -> float | None:
        """Return FLAC's bits per sample in the unit of the losses; None if they cannot be compared."""
        if self.flac_bits is None or unit == "bits":
            return self.flac_bits
        return None if self.is_frames else self.flac_bits / BITS

    def samples(self, data: NDArray[np.uint8], encoding: str | None) -> NDArray[np.float32]:
        """Return the samples (n,), full scale 1, of bytes of corpus.bin."""
        samples = data.view("<i2") if self.is_frames else bytes_to_int16(data, encoding == "mulaw")
        return (samples / 32768).astype(np.float32)

    def settings(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Return the rows of a table of settings that this kind of network alone has."""
        if not self.is_frames:
            rows = {"Embedding size": str(model.get("wordvec_size", "?"))}
            if model.get("context") or model.get("prediction", "none") != "none":
                samples, prediction, noise = (model.get(name, "?") for name in ("context", "prediction", "noise"))
                rows["Samples as numbers"] = f"context {samples}, prediction {prediction}, noise {noise}"
            return rows
        context = f"{model.get('taps', '?')} samples, {model.get('spacing', '?')} apart"
        return {"Context": context, "Loss": str(model.get("loss", "?"))}
