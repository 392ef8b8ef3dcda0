"""Sessions of the listening page: what a listener receives, and which messages are rejected."""

import contextlib
import json
import re
import shutil
import socket
import time

import frame_runs
import numpy as np
import pytest
import soundfile

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")
from hypothesis import event, given
from hypothesis import strategies as st
from listening import PLAY, Served, read_until, receive, sampled, samplers, send, wait_for
from websockets.exceptions import ConnectionClosed

from bytecodec import decode_mulaw
from charrnn.commands.sample import charrnn_sample
from charrnn.commands.train import charrnn_train
from charrnn.server import messages, sampler, session, sources
from charrnn.storage.run_dir import Run

JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)


HANDSHAKE = (
    b"GET /api/live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture(scope="module")
def served(trained_run):
    with Served([Run(trained_run)], listeners=2) as one:
        yield one


def test_a_listener_receives_what_charrnn_sample_draws_with_that_seed(served, trained):
    with served.socket_to() as connection:
        send(connection)
        playing = read_until(connection, "playing")
        received, _ = receive(connection, 6000)
    assert playing == {"type": "playing", "stream": 1, "rate": 11025, "step": 400, "isText": False}
    np.testing.assert_array_equal(received, sampled(trained, 7, len(received)))


def test_a_network_of_text_sends_what_charrnn_sample_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poem.txt").write_text("O rose, thou art sick! " * 40, encoding="utf-8")
    network = "--rnn-size 8 --layers 1 --batch-size 4 --seq-length 10 --max-iterations 6 --threads 1 -q".split()
    assert charrnn_train(["poem.txt", "--run-dir", "poem", *network]) == 0
    assert charrnn_sample(["poem", "--length", "90", "--seed", "7", "-o", "drawn.txt", "-q"]) == 0
    with Served([Run(tmp_path / "poem")]) as served, served.socket_to() as connection:
        send(connection)
        assert read_until(connection, "playing")["isText"]
        text = ""
        while len(text) < 90:
            text += read_until(connection, "text")["text"]
            send(connection, type="played", stream=1, samples=len(text))
    assert text[:90] == (tmp_path / "drawn.txt").read_text(encoding="utf-8")


def test_a_frame_predictor_sends_what_charrnn_sample_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("voice.wav", frame_runs.voice(2), frame_runs.RATE)
    flags = [*frame_runs.SMALL, "--loss", "gaussian", "--max-iterations", "4"]
    assert charrnn_train(["voice.wav", "--run-dir", "frames", *flags]) == 0
    assert charrnn_sample(["frames", "--seconds", "0.4", "--seed", "7", "-o", "drawn.wav", "-q"]) == 0
    with Served([Run(tmp_path / "frames")]) as served, served.socket_to() as connection:
        send(connection)
        playing = read_until(connection, "playing")
        received, _ = receive(connection, 6400)
    assert (playing["rate"], playing["isText"]) == (frame_runs.RATE, False)
    drawn, _ = soundfile.read("drawn.wav", dtype="int16")
    np.testing.assert_array_equal(received[:6400], drawn)


def test_sound_is_sent_only_slightly_ahead_of_playback(served):
    with served.socket_to() as connection:
        send(connection)
        read_until(connection, "playing")
        time.sleep(1.5)
        received = []
        with contextlib.suppress(TimeoutError):
            while True:
                received.append(connection.recv(timeout=0.5))
    sent = sum((len(one) - sampler.HEADER.size) // 2 for one in received if isinstance(one, bytes))
    assert 0.8 * sources.LEAD * 11025 < sent <= sources.LEAD * 11025


def test_temperature_and_checkpoint_change_while_playing(served):
    with served.socket_to() as connection:
        send(connection)
        before = len(receive(connection, 3000)[0])
        send(connection, type="temperature", value=0.25)
        assert receive(connection, 9000, before=before)[1][-1] == 0.25
        send(connection, type="stop")
        send(connection, stream=2, checkpoint=200)
        assert read_until(connection, "playing")["step"] == 200
        receive(connection, 1000, stream=2)


def test_a_listener_who_disconnects_leaves_no_sampler(served):
    with served.socket_to() as connection:
        send(connection)
        read_until(connection, "playing")
        wait_for(lambda: samplers() == 1)  # that of the test before may still be ending
    wait_for(lambda: not samplers())


def test_a_listener_who_does_not_play_leaves_no_sampler(served, monkeypatch):
    monkeypatch.setattr(sampler, "LISTENER_TIMEOUT", 0.5)
    with served.socket_to() as connection:
        send(connection)
        assert "Nothing was played" in read_until(connection, "ended")["why"]
        wait_for(lambda: not samplers())


def test_a_listener_who_does_not_read_leaves_no_sampler(served, monkeypatch):
    monkeypatch.setattr(sources.Source, "lead", 1e6)
    monkeypatch.setattr(session, "SEND_TIMEOUT", 0.5)
    text = json.dumps(PLAY).encode()
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        one.connect(("127.0.0.1", served.port))
        one.sendall(HANDSHAKE)
        one.recv(10)
        one.sendall(b"\x81" + bytes([0x80 | 126, 0, len(text)]) + bytes(4) + text)  # a frame with a mask of zeros
        wait_for(samplers)
        wait_for(lambda: not samplers())


def test_at_most_as_many_play_as_allowed_and_one_more_after_a_stop(served):
    with served.socket_to() as first, served.socket_to() as second, served.socket_to() as third:
        for connection in (first, second):
            send(connection)
            read_until(connection, "playing")
        send(third)
        assert "At most 2" in read_until(third, "ended")["why"]
        send(first, type="stop")
        wait_for(lambda: samplers() == 1)
        time.sleep(0.1)
        send(third)
        read_until(third, "playing")


def test_a_connection_without_messages_is_closed(served, monkeypatch):
    monkeypatch.setattr(session, "IDLE_TIMEOUT", 0.3)
    with served.socket_to() as connection, pytest.raises(ConnectionClosed):
        connection.recv(timeout=10)


def test_a_page_waits_for_osc_messages_without_an_end(trained_run, tone_file, monkeypatch):
    monkeypatch.setattr(session, "IDLE_TIMEOUT", 0.2)
    with Served([Run(trained_run)]) as served:
        state = served.state
        state.accepts_osc = True
        with pytest.raises(ValueError, match="no page is open"):
            state.handle_osc("stop", None)
        with served.socket_to() as connection:
            wait_for(lambda: state.sessions)
            time.sleep(0.5)
            for value in (tone_file, Run(trained_run).config_file):
                state.handle_osc("prime", str(value))
            first, second = (read_until(connection, "control")["value"] for _ in range(2))
        assert [first["name"], second["name"]] == ["tone.wav", "config.json"]
        status, body = served.ask(f"/api/osc-start?run=0&prime={first['number']}", b"")
        assert (status, json.loads(body)["seconds"]) == (200, 2.0)
        for number in (second["number"], 99, "x", ""):
            assert served.ask(f"/api/osc-start?run=0&prime={number}", b"")[0] == 400


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("[" * 4000, "not JSON"),
        ('{"type": ["play"]}', "play, temperature, played, stop"),
        (b"abc", "binary"),
        (json.dumps({**PLAY, "run": "../.."}), 'run is "../.."'),
        ('{"type": "temperature", "value": NaN}', "value is NaN"),
        (f'{{"type": "temperature", "value": 1{400 * "0"}}}', f"value is 1{39 * '0'}."),
        ('{"type": "played", "stream": 1}', "samples is null"),
    ],
)
def test_a_malformed_message_is_refused_and_ends_the_connection(served, message, why, capfd):
    with served.socket_to() as connection:
        connection.send(message)
        assert why in read_until(connection, "refused")["why"]
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=10)
    assert capfd.readouterr().err == ""


def test_a_message_of_a_megabyte_ends_the_connection_without_a_traceback(served, capfd):
    with served.socket_to() as connection:
        with contextlib.suppress(ConnectionClosed):
            connection.send("x" * 1_000_000)
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=10)
    assert capfd.readouterr().err == ""


@given(
    st.sampled_from(sorted(messages.FIELDS)),
    st.dictionaries(
        st.sampled_from(["stream", "run", "checkpoint", "temperature", "seed", "start", "value", "samples"]), JSON
    ),
)
def test_a_parsed_message_has_every_field_or_is_rejected(kind, fields):
    text = json.dumps({"type": kind, **fields})
    try:
        found = messages.parse({"type": "websocket.receive", "text": text})
    except messages.MalformedError:
        event("rejected")
    else:
        assert found.keys() == {"type", *messages.FIELDS[kind]}


def test_a_start_is_optional(served):
    with served.socket_to() as connection:
        connection.send(json.dumps({name: value for name, value in PLAY.items() if name != "start"}))
        read_until(connection, "playing")


def test_samples_are_decoded_by_the_networks_encoding(trained_run, tmp_path, trained):
    shutil.copytree(trained_run, tmp_path / "mulaw")
    run = Run(tmp_path / "mulaw")
    linear = run.checkpoint_file(400).read_bytes()
    mulaw = re.sub(rb'(encoding\\": ?\\")linear\\"', rb'\1mulaw\\" ', linear)  # of the same length
    assert mulaw != linear
    run.checkpoint_file(400).write_bytes(mulaw)
    with Served([run]) as one, one.socket_to() as connection:
        send(connection)
        received, _ = receive(connection, 1000)
    codes = sampled(trained, 7, len(received)) // 256 + 128
    np.testing.assert_array_equal(received, decode_mulaw(codes.astype(np.uint8)))
