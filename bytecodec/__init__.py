"""Sound and bytes to text and back."""

__version__ = "0.1.0"

from bytecodec.alphabet import ALPHABETS, Decoder, Encoder, alphabet_of, decode, encode
from bytecodec.errors import InputError, NoTableError
from bytecodec.mulaw import decode_mulaw, encode_mulaw
from bytecodec.table import Table, read_table
from bytecodec.wav import read_blocks
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
    "alphabet_of",
    "decode",
    "decode_mulaw",
    "encode",
    "encode_mulaw",
    "read_blocks",
    "read_table",
]
