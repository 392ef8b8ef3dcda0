"""Tables of bytes and characters, and decoding of the texts of BinToUTF8 with them."""

from pathlib import Path

import numpy as np
import pytest

import bytecodec
from bytecodec import Decoder, InputError, NoTableError, read_table
from bytecodec.commands import utf82bin, utf82wav

IN_ORDER = [chr(code) for code in (*range(0x23, 0x7F), *range(0x3900, 0x39A4))]  # 256 characters


def written(path, text):
    path.write_bytes(text.encode())
    return path


def bintoutf8(data):
    """Return the text that BinToUTF8 makes of bytes, and the bytes in the order of its characters."""
    order = list(dict.fromkeys(data))
    return "".join(IN_ORDER[order.index(byte)] for byte in data), order


def table_text(order):
    return "".join(f"{byte}\t{IN_ORDER[k]}\n" for k, byte in enumerate(order))


@pytest.fixture
def sound():
    return np.random.default_rng(0).permutation(256).astype(np.uint8).tobytes() * 3


def test_a_line_is_a_byte_and_a_character(tmp_path):
    for line in ("65 A", "65\tA", "0x41 A", "0X41\t A", "  065   A  ", "65 A\r"):
        table = read_table(written(tmp_path / "t.txt", f"\ufeff{line}\n\n"))
        assert Decoder(table=table).feed(b"AA") == b"\x41\x41", line


def test_a_space_is_a_character_too(tmp_path):
    for line in ("7  ", "7\t ", "7    "):
        table = read_table(written(tmp_path / "t.txt", f"{line}\r\n44 ,\r\n9\t\t\r\n"))
        assert Decoder(table=table).feed(b" ,\t") == bytes([7, 44, 9]), line


def test_a_malformed_table_is_rejected_with_its_line(tmp_path):
    malformed = {
        "65 A\nB 66\n": "line 2",
        "65 A\n\n256 B": "line 3",
        "65 AB": "line 1",
        "65 ": "line 1",
        "0xG A": "line 1",
        "65 A\r\n0x41 B": "line 1",
        "65 A\n66 A": "line 2",
        "": "empty",
        "\ufeff\r\n": "empty",
        "1 a\n" * 40_000: "too long",
    }
    for text, words in malformed.items():
        with pytest.raises(InputError, match=words):
            read_table(written(tmp_path / "t.txt", text))
    (tmp_path / "t.txt").write_bytes(b"65 A\n66 \xff\n")
    with pytest.raises(InputError, match="line 2"):
        read_table(tmp_path / "t.txt")


def test_a_table_of_256_bytes_is_in_the_order_of_the_characters(tmp_path, sound):
    text, order = bintoutf8(sound)
    (tmp_path / "t.bcl").write_bytes(bytes(order))
    assert Decoder(table=read_table(tmp_path / "t.bcl")).feed(text.encode()) == sound


def test_a_text_is_decoded_with_its_table_in_any_chunks(tmp_path, sound):
    text, order = bintoutf8(sound)
    decoder = Decoder(table=read_table(written(tmp_path / "t.txt", table_text(order))))
    data = f"\ufeff{text}\r\n".encode()  # as torch-rnn ends its output
    pieces = [decoder.feed(data[at : at + 7]) for at in range(0, len(data), 7)]
    assert b"".join([*pieces, decoder.close()]) == sound


def test_a_character_that_is_not_in_the_table_is_reported_with_its_offset_or_skipped(tmp_path):
    table = read_table(written(tmp_path / "t.txt", "1 A\n2 㤀\n"))
    with pytest.raises(InputError, match=r"'x' at character 2 \(byte 4\)"):
        Decoder(table=table).feed("A㤀xA".encode())
    decoder = Decoder("skip", table=table)
    assert decoder.feed("A㤀x\nA".encode()) + decoder.close() == b"\1\2\1"
    assert decoder.skipped == 2


def test_a_text_without_its_table_is_recognised(sound):
    text = bintoutf8(sound)[0].encode()
    with pytest.raises(NoTableError, match="--table"):
        Decoder().feed(text)
    decoder = Decoder("skip")
    decoder.feed(bintoutf8(bytes(range(120)))[0].encode())
    with pytest.raises(NoTableError, match="--table"):
        decoder.close()


def test_an_error_in_a_text_of_the_cjk_alphabet_is_not_mistaken_for_such_a_text(sound):
    text = bytecodec.encode(sound, "cjk")
    with pytest.raises(InputError, match="not in the cjk") as caught:
        Decoder().feed(f"{text[:400]}ab{text[400:]}".encode())
    assert not isinstance(caught.value, NoTableError)
    decoder = Decoder("skip")
    assert decoder.feed(f"{text[:400]}ab{text[400:]}".encode()) + decoder.close() == sound


def test_utf82bin_and_utf82wav_use_a_table(tmp_path, sound, monkeypatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    text, order = bintoutf8(sound)
    written(Path("a.txt"), text)
    written(Path("t.txt"), table_text(order))
    assert utf82bin(["a.txt", "a.bin", "--table", "t.txt"]) == 0
    assert utf82wav(["a.txt", "a.wav", "--table", "t.txt"]) == 0
    assert Path("a.bin").read_bytes() == sound
    assert Path("a.wav").read_bytes()[-len(sound) :] == sound
    for command in (utf82bin, utf82wav):
        for start in (text, text[:50]):  # the first values alone are ASCII
            written(Path("b.txt"), start)
            assert command(["b.txt", "b.out"]) == 1
            assert "--table" in capsys.readouterr().err
            assert not Path("b.out").exists()
    assert utf82bin(["a.txt", "a.bin", "--table", "none.txt"]) == 1
    assert "none.txt" in capsys.readouterr().err
