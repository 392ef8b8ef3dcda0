"""Sound and bytes to text and back."""

__version__ = "0.1.0"

from bytecodec.alphabet import ALPHABETS, Decoder, Encoder, alphabet_of, decode, encode
from bytecodec.errors import InputError

__all__ = [
    "ALPHABETS",
    "Decoder",
    "Encoder",
    "InputError",
    "alphabet_of",
    "decode",
    "encode",
]
