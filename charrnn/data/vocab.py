"""Vocabularies: characters to ids and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytecodec import ALPHABETS
from bytecodec.errors import InputError

MAX_CODE_POINT = 0x10FFFF
Ids = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Vocab:
    """The characters of a network; the id of a character is its position."""

    characters: str  # each once, sorted by code point; a converted vocabulary keeps its order
    alphabet: str | None = None  # the codec's alphabet if the characters are its 256, so that an id is a byte

    @classmethod
    def of_alphabet(cls, name: str) -> Vocab:
        """Return the 256 characters of an alphabet of bytecodec, in the order of their bytes."""
        first = ALPHABETS[name]
        return cls("".join(map(chr, range(first, first + 256))), name)

    @classmethod
    def of_code_points(cls, code_points: NDArray[np.integer[Any]]) -> Vocab:
        """Return the given code points, each once and sorted."""
        return cls("".join(map(chr, np.unique(code_points).tolist())))

    def __len__(self) -> int:
        return len(self.characters)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned integer type that holds every id: one byte up to 256 characters."""
        return np.dtype(np.min_scalar_type(max(len(self) - 1, 0)))

    @cached_property
    def _id_of_code_point(self) -> NDArray[np.int32]:
        table = np.full(MAX_CODE_POINT + 1, -1, dtype=np.int32)
        table[code_points(self.characters)] = np.arange(len(self), dtype=np.int32)
        return table

    @cached_property
    def _code_point_of_id(self) -> NDArray[np.uint32]:
        return code_points(self.characters)

    def encode(self, text: str, offset: int = 0) -> Ids:
        """Return the ids (n,) of the n characters of ``text``, in `dtype`.

        Raise InputError for a character that is not in the vocabulary, with its position counted from ``offset``.
        """
        ids = self._id_of_code_point[code_points(text)]
        if ids.size and ids.min() < 0:
            position = int(np.argmax(ids < 0))
            raise InputError(
                f"the network has no symbol {describe(text[position])}, character {offset + position} of the text: "
                f"it was trained on {self.describe()}. Omit it, as charrnn-sample --unknown skip does, or "
                "train on text that has it."
            )
        return ids.astype(self.dtype)

    def encode_skipping_unknown(self, text: str) -> Ids:
        """Return the ids of those characters of ``text`` that are in the vocabulary, in `dtype`."""
        ids = self._id_of_code_point[code_points(text)]
        return ids[ids >= 0].astype(self.dtype)

    def decode(self, ids: Ids) -> str:
        """Return the text of ids (n,), or raise IndexError for an id that is out of range."""
        ids = np.asarray(ids)
        if ids.size and ids.min() < 0:
            raise IndexError(f"id {ids.min()} is out of range")
        return self._code_point_of_id[ids].astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def describe(self) -> str:
        if self.alphabet:
            return f"bytes as {self.alphabet} characters"
        return f"{len(self)} characters from {describe(min(self.characters))} to {describe(max(self.characters))}"

    def to_json(self) -> dict[str, str]:
        """Return the value to store in config.json and checkpoints."""
        return {"alphabet": self.alphabet} if self.alphabet else {"characters": self.characters}

    @classmethod
    def from_json(cls, data: Any) -> Vocab:
        """Return the vocabulary of a result of `to_json`, or raise ValueError for another value."""
        alphabet = data.get("alphabet") if isinstance(data, dict) else None
        if isinstance(alphabet, str) and alphabet in ALPHABETS:
            return cls.of_alphabet(alphabet)
        characters = data.get("characters") if isinstance(data, dict) else None
        if not isinstance(characters, str) or not characters or len(set(characters)) != len(characters):
            raise ValueError("the vocabulary is neither an alphabet nor a string of different characters")
        return cls(characters)


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the code points (n,) of the characters."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint32, copy=False)


def describe(character: str) -> str:
    """Return a character as messages show it, such as 'A' (U+0041)."""
    return f"{character!r} (U+{ord(character):04X})"
