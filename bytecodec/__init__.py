"""Conversion of sound, and of any bytes, to text and back."""

from bytecodec.alphabet import ALPHABETS, Decoder, Encoder, alphabet_of, decode, encode
from bytecodec.errors import InputError, NoTableError
from bytecodec.pcm import decode_mulaw, encode_mulaw
from bytecodec.reader import read_blocks
from bytecodec.table import Table, read_table
from bytecodec.version import __version__
from bytecodec.wavwriter import WavFullError, WavWriter

__all__ = [
    "ALPHABETS",
    "Decoder",
    "Encoder",
    "InputError",
    "NoTableError",
    "Table",
    "WavFullError",
    "WavWriter",
    "__version__",
    "alphabet_of",
    "decode",
    "decode_mulaw",
    "encode",
    "encode_mulaw",
    "read_blocks",
    "read_table",
]
