"""What the listening page serves, to whom, and what a listener gets to hear."""

import contextlib
import errno
import json
import shutil
import socket
import threading
import time
import urllib.request

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")
from hypothesis import event, given
from hypothesis import strategies as st
from listening import PLAY, Served, has_samplers, sampled, wait_for
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bytecodec import InputError, decode_mulaw
from charrnn.server import app as listen_app
from charrnn.server import session
from charrnn.storage.run_dir import Run

JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)
TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def other_run(tmp_path_factory, trained_run):
    """A copy of `trained_run`, to be grown, with a checkpoint that is cut and one of a frame predictor."""
    folder = tmp_path_factory.mktemp("runs") / "other"
    shutil.copytree(trained_run, folder)
    run = Run(folder)
    run.checkpoint_file(500).write_bytes(run.checkpoint_file(400).read_bytes()[:5000])
    head = json.dumps({"__metadata__": {"charrnn": json.dumps({"format": 1, "kind": "frames"})}}).encode()
    run.checkpoint_file(600).write_bytes(len(head).to_bytes(8, "little") + head)
    return run


@pytest.fixture(scope="module")
def served(trained_run, other_run):
    with Served([Run(trained_run), other_run], listeners=2) as one:
        yield one


def read_until(connection, kind):
    """The next message of a kind; sound before it is passed over."""
    while True:
        message = connection.recv(timeout=30)
        if isinstance(message, str) and json.loads(message)["type"] == kind:
            return json.loads(message)


def receive(connection, samples, take=1, before=0):
    """The first samples of a take, and the temperature of each piece, as a listener who hears all at once."""
    pieces, temperatures, count = [], [], 0
    while count < samples:
        message = connection.recv(timeout=30)
        if isinstance(message, bytes):
            number, temperature = session.HEAD.unpack_from(message)
            assert number == take
            pieces.append(np.frombuffer(message, "<i2", offset=session.HEAD.size))
            temperatures.append(temperature)
            count += len(pieces[-1])
            connection.send(json.dumps({"type": "heard", "take": take, "samples": before + count}))
    return np.concatenate(pieces), temperatures


def test_what_is_heard_is_what_charrnn_sample_draws_with_that_seed(served, trained):
    with served.socket_to() as connection:
        connection.send(json.dumps(PLAY))
        playing = read_until(connection, "playing")
        heard, _ = receive(connection, 6000)
    assert playing == {"type": "playing", "take": 1, "rate": 11025, "step": 400}
    np.testing.assert_array_equal(heard, sampled(trained, 7, len(heard)))


def test_no_more_is_sent_than_a_moment_ahead_of_what_is_heard(served):
    with served.socket_to() as connection:
        connection.send(json.dumps(PLAY))
        read_until(connection, "playing")
        time.sleep(1.5)
        messages = []
        with contextlib.suppress(TimeoutError):
            while True:
                messages.append(connection.recv(timeout=0.5))
    sent = sum((len(one) - session.HEAD.size) // 2 for one in messages if isinstance(one, bytes))
    assert 0.8 * session.AHEAD * 11025 < sent <= session.AHEAD * 11025


def test_a_new_temperature_comes_with_the_next_piece_and_a_stop_stops(served):
    with served.socket_to() as connection:
        connection.send(json.dumps(PLAY))
        before = len(receive(connection, 3000)[0])
        connection.send(json.dumps({"type": "temperature", "value": 0.25}))
        _, temperatures = receive(connection, 9000, before=before)
        assert temperatures[-1] == 0.25
        connection.send(json.dumps({"type": "stop"}))
        connection.send(json.dumps(PLAY | {"take": 2, "checkpoint": 200}))
        assert read_until(connection, "playing")["step"] == 200
        receive(connection, 1000, take=2)


def test_a_listener_who_goes_leaves_no_sampler_behind(served):
    with served.socket_to() as connection:
        connection.send(json.dumps(PLAY))
        read_until(connection, "playing")
        assert has_samplers()
    wait_for(lambda: not has_samplers())


def test_who_hears_nothing_for_long_is_told_and_sampled_for_no_more(served, monkeypatch):
    monkeypatch.setattr(session, "LISTENER_TIMEOUT", 0.5)
    with served.socket_to() as connection:
        connection.send(json.dumps(PLAY))
        assert read_until(connection, "ended")["why"].startswith("Nothing was heard for")
    wait_for(lambda: not has_samplers())


def test_more_listeners_than_there_are_seats_are_told_in_words(served):
    with served.socket_to() as first, served.socket_to() as second, served.socket_to() as third:
        for connection in (first, second):
            connection.send(json.dumps(PLAY))
            read_until(connection, "playing")
        third.send(json.dumps(PLAY))
        assert read_until(third, "ended")["why"] == (
            "2 listeners are playing already, and no more can be played to at once. Try again when one has stopped."
        )
        first.send(json.dumps({"type": "stop"}))
        wait_for(lambda: sum(thread.name == "sampler" for thread in threading.enumerate()) == 1)
        time.sleep(0.1)
        third.send(json.dumps(PLAY))
        read_until(third, "playing")


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("{", "That message was no JSON."),
        ("[" * 4000, "That message was no JSON."),
        ("[]", "That message was none of play, temperature, heard, stop."),
        ('{"type": ["play"]}', "That message was none of play, temperature, heard, stop."),
        (b"abc", "That was a message of bytes, and messages here are JSON."),
        (json.dumps({**PLAY, "run": "../.."}), 'In that play message, run was "../..".'),
        (json.dumps({**PLAY, "checkpoint": "../a"}), 'In that play message, checkpoint was "../a".'),
        (json.dumps({**PLAY, "checkpoint": [1]}), "In that play message, checkpoint was [1]."),
        (json.dumps({**PLAY, "seed": -1}), "In that play message, seed was -1."),
        ('{"type": "temperature", "value": NaN}', "In that temperature message, value was NaN."),
        ('{"type": "temperature", "value": true}', "In that temperature message, value was true."),
        (f'{{"type": "temperature", "value": 1{400 * "0"}}}', f"In that temperature message, value was 1{39 * '0'}."),
        ('{"type": "heard", "take": 1}', "In that heard message, samples was null."),
    ],
)
def test_a_malformed_message_is_refused_in_words(served, message, why, capfd):
    with served.socket_to() as connection:
        connection.send(message)
        assert read_until(connection, "refused")["why"] == f"{why} The connection ends."
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


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"run": 9}, "There is no run of number '9' here."),
        ({"checkpoint": 7}, "tone has no checkpoint 7."),
        ({"run": 1, "checkpoint": 600}, "other is a frame predictor, which cannot be played live: use charrnn-sample."),
        ({"start": "x"}, "The recording to start from is no longer kept here: drop it once more."),
    ],
)
def test_what_cannot_be_played_is_said(served, change, why):
    with served.socket_to() as connection:
        connection.send(json.dumps(PLAY | change))
        assert read_until(connection, "ended") == {"type": "ended", "take": 1, "why": why}


def test_a_checkpoint_that_is_cut_is_one_sentence_and_leaves_the_seat_free(served, capfd):
    with served.socket_to() as connection:
        for take in range(1, 4):
            connection.send(json.dumps(PLAY | {"run": 1, "checkpoint": 500, "take": take}))
            ended = read_until(connection, "ended")
            assert ended["take"] == take
            assert "00000500.safetensors" in ended["why"]
    assert capfd.readouterr().err == ""


def test_links_out_of_a_run_are_not_followed(tmp_path, other_run, trained_run):
    shutil.copytree(other_run.path, tmp_path / "mine")
    run = Run(tmp_path / "mine")
    for step in (400, 500, 600):
        run.checkpoint_file(step).unlink()
    run.checkpoint_file(400).symlink_to(Run(trained_run).checkpoint_file(400))
    run.best_file.write_text(json.dumps({"iteration": 400, "val_loss": 1, "checkpoint": "../../etc/passwd"}))
    for which in ("newest", "best", 400):
        with pytest.raises(InputError, match="leads out of the run"):
            listen_app._checkpoint(run, which)


def test_a_field_that_may_be_left_out_may_be(served):
    with served.socket_to() as connection:
        connection.send(json.dumps({name: value for name, value in PLAY.items() if name != "start"}))
        read_until(connection, "playing")


@given(
    st.sampled_from(sorted(session.FIELDS)),
    st.dictionaries(
        st.sampled_from(["take", "run", "checkpoint", "temperature", "seed", "start", "value", "samples"]), JSON
    ),
)
def test_whatever_a_message_holds_it_is_refused_or_has_every_field(kind, fields):
    text = json.dumps({"type": kind, **fields})
    try:
        found = session.parsed({"type": "websocket.receive", "text": text})
    except session.MalformedError:
        event("refused")
    else:
        assert found.keys() == {"type", *session.FIELDS[kind]}


@pytest.mark.parametrize("path", ["/../setup.cfg", "/listen.py", "/%2e%2e/etc/passwd", "/api/curves?run=../..", "/x"])
def test_no_other_file_can_be_named(served, path):
    assert served.ask(path)[0] in (400, 404)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:9"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "192.168.1.7"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
    ],
)
def test_host_and_origin_have_to_be_the_pages_own(served, headers, status):
    assert served.ask("/api/runs", **headers)[0] == status
    assert served.ask("/api/runs", Origin=f"http://{served.host}")[0] == 200


def test_a_page_from_elsewhere_cannot_connect(served):
    with pytest.raises(InvalidStatus) as refused:
        served.socket_to(origin="http://evil.example")
    assert refused.value.response.status_code == 403
    assert refused.value.response.body == b"A page of 'http://evil.example' may not use this one.\n"


def test_a_token_is_asked_of_everybody_and_kept_in_a_cookie(trained_run):
    options = {"names": ("localhost",), "addresses": True, "token": TOKEN}
    with Served([Run(trained_run)], **options) as one:
        for path in ("/", "/listen.js", "/api/runs", "/?token=wrong", "/?token=%C3%A9"):
            assert one.ask(path) == (401, b"This page takes a token: open the address that was printed with it.\n")
        with pytest.raises(InvalidStatus) as refused:
            one.socket_to()
        assert refused.value.response.status_code == 401
        assert one.ask(f"/?token={TOKEN}", Host="rebound.example")[0] == 403
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(f"http://{one.host}/?token={TOKEN}") as answer:
            assert answer.url == f"http://{one.host}/"
            assert b"<title>" in answer.read()
        with opener.open(f"http://{one.host}/api/runs") as answer:
            assert json.load(answer)["runs"][0]["name"] == "tone"


def test_the_runs_are_listed_and_the_curve_grows_with_the_log(served, other_run):
    runs = json.loads(served.ask("/api/runs")[1])["runs"]
    assert [run["name"] for run in runs] == ["tone", "other"]
    assert runs[0]["checkpoints"] == [200, 400]
    assert runs[0]["network"] == "LSTM, 2 layers of 48"
    before = json.loads(served.ask("/api/curves?run=1")[1])
    assert before["iteration"] == list(range(1, 401))
    assert before["val"]["iteration"] == [200, 400]
    row = other_run.log_file.read_text().splitlines()[-1].partition(",")[2]
    with other_run.log_file.open("a") as file:
        file.write(f"401,{row}\nragged\n402,{row}\n403,{row[:5]}")
    after = json.loads(served.ask("/api/curves?run=1")[1])
    assert after["iteration"] == list(range(1, 403))
    rows = other_run.log_file.read_text().splitlines()
    other_run.log_file.with_suffix(".new").write_text("\n".join(rows[:101]) + "\n")
    other_run.log_file.with_suffix(".new").replace(other_run.log_file)
    assert json.loads(served.ask("/api/curves?run=1")[1])["iteration"] == list(range(1, 101))


def test_a_network_starts_from_the_end_of_a_recording(served, trained, tone, tone_file):
    status, answer = served.ask("/api/start?run=0&name=tone.wav", tone_file.read_bytes())
    kept = json.loads(answer)
    assert (status, kept["seconds"]) == (200, 2.0)
    with served.socket_to() as connection:
        connection.send(json.dumps(PLAY | {"start": kept["id"]}))
        heard, _ = receive(connection, 2000)
    np.testing.assert_array_equal(heard, sampled(trained, 7, len(heard), tone[-22050:]))


@pytest.mark.parametrize(
    ("path", "data", "why"),
    [
        ("?run=0&name=../../a.wav", b"RIFF....WAVEfmt garbage", "recording that can be read"),
        ("?run=0&name=a.txt", b"Hello", "a.txt is plain text"),
        ("?run=0&name=a.flac", b"", "a.flac is empty: it has 0 bytes."),
        ("?run=0&name=a.bin", b"\xff\xfe\x00", "a.bin "),
        ("?run=5&name=a.wav", b"RIFF", "There is no run of number '5' here."),
    ],
)
def test_what_is_no_recording_is_refused_in_words(served, path, data, why):
    status, answer = served.ask(f"/api/start{path}", data)
    assert status == 400
    assert why in answer.decode()
    assert "/tmp" not in answer.decode()


def test_an_upload_that_is_too_large_is_refused_announced_or_not(served, monkeypatch):
    monkeypatch.setattr(listen_app, "MOST_UPLOAD", 1000)
    status, answer = served.ask("/api/start?run=0&name=a.wav", b"x" * 2000)
    assert (status, answer) == (400, listen_app.TOO_LARGE.encode())
    with socket.create_connection(("127.0.0.1", int(served.host.partition(":")[2]))) as raw:
        head = f"POST /api/start?run=0&name=a HTTP/1.1\r\nHost: {served.host}\r\nTransfer-Encoding: chunked\r\n\r\n"
        raw.sendall(head.encode() + b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n")
        raw.settimeout(20)
        assert raw.recv(100).startswith(b"HTTP/1.1 400")


def test_a_full_disk_is_said_and_the_next_recording_is_taken(served, monkeypatch, tone_file):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(listen_app.tempfile, "TemporaryDirectory", full)
        status, answer = served.ask("/api/start?run=0&name=a.wav", b"RIFF")
    assert (status, answer) == (400, b"The recording cannot be kept here: No space left on device.")
    assert served.ask("/api/start?run=0&name=a.wav", tone_file.read_bytes())[0] == 200


def test_mulaw_is_heard_as_it_was_meant():
    np.testing.assert_array_equal(session.samples_of("mulaw"), decode_mulaw(np.arange(256, dtype=np.uint8)))
    assert session.samples_of("linear")[[0, 128, 255]].tolist() == [-32768, 0, 32512]
