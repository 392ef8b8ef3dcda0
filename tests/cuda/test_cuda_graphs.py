"""CUDA graphs, with a stand-in for the GPU."""

import contextlib

import pytest
import torch

from charrnn.cuda import graphs


class Gpu:
    """A stand-in for torch.cuda: a capture that fails ends with another error, on another stream."""

    def __init__(self, monkeypatch):
        self.current, self.ended = "main stream", []
        for name, value in {
            "CUDAGraph": lambda: self,
            "graph_pool_handle": lambda: "pool",
            "current_device": lambda: 0,
            "current_stream": lambda: self.current,
            "set_stream": lambda stream: setattr(self, "current", stream),
            "graph": self.graph,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(graphs, "_stream", lambda device: "side stream")
        end = lambda device, pool: self.ended.append((device, pool))  # noqa: E731
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)

    @contextlib.contextmanager
    def graph(self, graph, pool, stream):
        before, self.current = self.current, stream
        try:
            yield
        except Exception:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture") from None
        self.current = before

    def replay(self):
        """Replay the captured work."""


@pytest.fixture
def gpu(monkeypatch):
    return Gpu(monkeypatch)


def test_a_graph_is_captured_on_the_side_stream_and_leaves_the_current_one(gpu):
    done = []
    assert graphs.capture(lambda: done.append(gpu.current)) == gpu.replay
    assert (done, gpu.current, gpu.ended) == (["side stream"], "main stream", [])


def test_if_a_capture_fails_its_first_error_is_raised_and_the_device_is_as_before(gpu):
    def work():
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        graphs.capture(work)
    assert (gpu.current, gpu.ended) == ("main stream", [(0, "pool")])


def test_an_error_at_the_end_of_a_capture_is_raised(gpu, monkeypatch):
    @contextlib.contextmanager
    def graph(graph, pool, stream):
        yield
        raise RuntimeError("CUDA error: capture was invalidated")

    monkeypatch.setattr(torch.cuda, "graph", graph)
    with pytest.raises(RuntimeError, match="capture was invalidated"):
        graphs.capture(lambda: None)


def test_only_gpus_have_graphs_and_they_can_be_disabled(monkeypatch):
    monkeypatch.delenv(graphs.SWITCH, raising=False)
    assert graphs.graphs_enabled("cuda")
    assert not graphs.graphs_enabled("cpu")
    monkeypatch.setenv(graphs.SWITCH, "0")
    assert not graphs.graphs_enabled("cuda")
