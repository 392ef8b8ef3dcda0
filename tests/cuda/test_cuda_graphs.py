"""What becomes of a GPU on which work cannot be recorded, as far as that can be seen without one."""

import contextlib

import pytest
import torch

from charrnn.cuda import graphs


class Gpu:
    """What stands for torch.cuda: a recording that fails ends in an error of its own, on another stream."""

    def __init__(self, monkeypatch):
        self.current, self.ended = "the run's", []
        for name, value in {
            "CUDAGraph": lambda: self,
            "graph_pool_handle": lambda: "pool",
            "current_device": lambda: 0,
            "current_stream": lambda: self.current,
            "set_stream": lambda stream: setattr(self, "current", stream),
            "graph": self.graph,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(graphs, "_stream", lambda: "beside")
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
        """Do the recorded work."""


@pytest.fixture
def gpu(monkeypatch):
    return Gpu(monkeypatch)


def test_a_recording_is_replayed_from_the_stream_that_was_the_current_one(gpu):
    done = []
    assert graphs.capture(lambda: done.append(gpu.current)) == gpu.replay
    assert (done, gpu.current, gpu.ended) == (["beside"], "the run's", [])


def test_of_work_that_cannot_be_recorded_the_reason_is_raised_and_the_device_is_as_before(gpu):
    def work():
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        graphs.capture(work)
    assert (gpu.current, gpu.ended) == ("the run's", [(0, "pool")])


def test_what_fails_only_at_the_end_of_a_recording_is_raised_as_it_is(gpu, monkeypatch):
    @contextlib.contextmanager
    def graph(graph, pool, stream):
        yield
        raise RuntimeError("CUDA error: capture was invalidated")

    monkeypatch.setattr(torch.cuda, "graph", graph)
    with pytest.raises(RuntimeError, match="capture was invalidated"):
        graphs.capture(lambda: None)
