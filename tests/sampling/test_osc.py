"""Messages of Open Sound Control, and the playback that they control."""

from __future__ import annotations

import socket
import threading
import time

import numpy as np
import pytest
from listening import wait_for

from bytecodec import InputError
from charrnn.engines import engine
from charrnn.sampling import osc
from charrnn.sampling.live_control import LiveControl
from charrnn.sampling.task import SymbolSampling
from charrnn.storage import checkpoint_format

udp_client = pytest.importorskip("pythonosc.udp_client")


@pytest.fixture
def received():
    """A list of the messages that were received, and a function that sends one."""
    messages = []
    with (
        osc.receive("127.0.0.1", 0, lambda *message: messages.append(message)) as port,
        udp_client.SimpleUDPClient("127.0.0.1", port) as client,
    ):
        yield messages, client.send_message


def test_messages_are_received(received):
    messages, send = received
    for address, value in (("/temperature", 0.5), ("/seed", 7), ("/seed", 8.0), ("/play", []), ("/stop", 1.0)):
        send(address, value)
    send("/prime", "voice.wav")
    wait_for(lambda: len(messages) == 6)
    expected = [("temperature", 0.5), ("seed", 7), ("seed", 8), ("play", None), ("stop", None), ("prime", "voice.wav")]
    assert messages == expected


@pytest.mark.parametrize(
    ("address", "value", "key"),
    [
        ("/volume", 1.0, "addresses are /temperature"),
        ("/temperature", -1.0, "from 0 to 10"),
        ("/temperature", "hot", "one number"),
        ("/temperature", [0.1, 0.2], "one number"),
        ("/seed", 1.5, "whole number"),
        ("/prime", 3, "path"),
    ],
)
def test_a_wrong_message_is_reported_and_has_no_effect(received, capsys, address, value, key):
    messages, send = received
    send(address, value)
    send("/play", [])
    wait_for(lambda: messages == [("play", None)])
    error = capsys.readouterr().err
    assert address in error
    assert key in error


def test_a_bundle_for_later_has_its_effect_at_once():
    from pythonosc.osc_bundle_builder import OscBundleBuilder
    from pythonosc.osc_message_builder import OscMessageBuilder

    bundle = OscBundleBuilder(time.time() + 3600)
    bundle.add_content(OscMessageBuilder("/play").build())
    assert receive_packet(bundle.build().dgram) == [("play", None)]


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"/prime\0\0,s\0\0\xff\xfe\0\0", id="a text that is not UTF-8"),
        pytest.param(b"/temperature\0\0\0\0,\x1bf\0\x3f\0\0\0", id="an unknown type"),
        pytest.param(b"#bundle\0" + bytes(7) + b"\1" + b"\0\0\0\x04junk", id="an unknown element of a bundle"),
    ],
)
def test_a_packet_that_cannot_be_read_is_reported_and_has_no_effect(capfd, packet):
    assert receive_packet(packet) == []
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"{len(packet)} bytes has no effect" in lines[0]


def receive_packet(packet: bytes) -> list[tuple[str, object]]:
    """Send a packet and /stop; return the messages that were received before /stop."""
    messages = []
    with (
        osc.receive("127.0.0.1", 0, lambda *message: messages.append(message)) as port,
        socket.socket(type=socket.SOCK_DGRAM) as sender,
    ):
        sender.sendto(packet, ("127.0.0.1", port))
        sender.sendto(b"/stop\0\0\0,\0\0\0", ("127.0.0.1", port))
        wait_for(lambda: ("stop", None) in messages)
    return messages[:-1]


@pytest.mark.parametrize("host", ["nosuchhost.invalid", "a..b"])
def test_a_host_that_does_not_exist_is_rejected(host):
    with pytest.raises(InputError, match="no host"), osc.receive(host, 0, print):
        pass


def test_a_port_that_is_in_use_is_rejected():
    with (
        osc.receive("127.0.0.1", 0, print) as port,
        pytest.raises(InputError, match=str(port)),
        osc.receive("127.0.0.1", port, print),
    ):
        pass


class Silent:
    """A player that counts its pauses."""

    pauses = 0

    def pause(self):
        self.pauses += 1


@pytest.fixture
def task(symbols_run):
    """A task of one stream, restarted with seed 1 at temperature 1."""
    checkpoint = checkpoint_format.load(symbols_run)
    made = SymbolSampling(checkpoint, engine(checkpoint, "eager"), np.empty(0, np.int64), seed=1, chunk=8)
    made.restart(1.0)
    return made


def played(task, messages, count=4):
    """Return the symbols of pieces, with messages before the pieces of these numbers."""
    control, player, found = LiveControl(task, lambda _: None), Silent(), []
    for _, (piece,) in control.pieces(player, lambda: len(found) == count):
        found.append(piece.tolist())
        for message in messages.get(len(found), []):
            control.handle(*message)
    return found, player


def test_without_messages_the_stream_is_that_of_the_seed(task):
    found, _ = played(task, {})
    task.restart(1.0)
    assert found == [piece.tolist() for _, (piece,) in task.pieces(1, 32)]


def test_a_new_temperature_has_an_effect_from_the_next_piece_on(task):
    plain, _ = played(task, {})
    task.restart(1.0)
    changed, _ = played(task, {2: [("temperature", 0.0)]})
    assert changed[:2] == plain[:2]
    assert changed[2:] != plain[2:]


def test_a_seed_starts_the_stream_again(task):
    found, _ = played(task, {2: [("seed", 1)]})
    assert found[2:] == found[:2]


def test_the_newest_recording_primes_the_stream_once_it_is_read(task):
    task.start = np.array([1, 2, 3])
    task.restart(1.0, 5)
    expected = next(task.pieces(1, 8))[1][0].tolist()
    task.start = np.empty(0, np.int64)
    task.restart(1.0, 1)
    may_read, named = threading.Event(), []

    def read_start(path):
        named.append(path)
        assert may_read.wait(20)
        return np.array([1, 2, 3])

    control = LiveControl(task, read_start)
    pieces = control.pieces(Silent(), lambda: False)
    control.handle("prime", "first")
    wait_for(lambda: named == ["first"])
    for name in ("second", "third"):
        control.handle("prime", name)
    control.handle("seed", 5)
    assert next(pieces)[1][0].tolist() != expected  # playback does not wait
    may_read.set()
    wait_for(lambda: named[-1] == "third" and next(pieces)[1][0].tolist() == expected)
    assert named == ["first", "third"]


def test_a_recording_that_cannot_be_read_is_reported(task, capsys):
    def fail(path):
        raise InputError(f"there is no {path}.")

    LiveControl(task, fail).handle("prime", "nothing.wav")
    wait_for(lambda: "nothing.wav" in capsys.readouterr().err)


def test_stop_pauses_until_play(task):
    control, player = LiveControl(task, lambda _: None), Silent()
    control.handle("stop", None)
    began = time.monotonic()
    pieces = control.pieces(player, lambda: time.monotonic() > began + 0.3 and control.handle("play", None))
    assert len(next(pieces)[1][0]) == 8
    assert time.monotonic() > began + 0.3
    assert player.pauses == 1
