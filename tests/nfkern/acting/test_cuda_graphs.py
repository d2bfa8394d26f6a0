"""Replay of captured calls, with a capture that behaves as a CUDA graph does: fixed memory, no Python in between."""

import contextlib
import copy
import functools
import inspect
import threading

import pytest
import torch
from support import flows
from torch import nn

import nfkern
from nfkern.acting import cuda_graphs
from nfkern.acting.cuda_graphs import CapturedCalls, capture_cuda


def capture(log, function, inputs):
    """A graph on the CPU: the outputs live where they were first written, and every replay overwrites them."""
    outputs = tuple(output.clone() for output in function(*inputs))
    log.append("captured")

    def replay():
        log.append("replayed")
        for output, value in zip(outputs, function(*inputs), strict=True):
            output.copy_(value)

    return replay, outputs


def warmed_up(name="paper", sizes=(1, 4), encoder=None, observation=None, dtype=torch.float64):
    """A frozen flow that captures on the CPU, its eager twin, and the log of what happens."""
    flow = flows.make(name, dtype)
    frozen, eager = flow.freeze(encoder=encoder), flow.freeze(encoder=encoder)
    log = []
    frozen._calls = CapturedCalls(functools.partial(capture, log), "cpu")
    frozen.warmup(sizes, observation)
    calls = 2 if flow.bounds else 3
    assert log == ["captured"] * calls * len(sizes)
    log.clear()
    return frozen, eager, log


@pytest.mark.slow
@pytest.mark.parametrize("name", flows.EVERY)
@pytest.mark.parametrize("batch", [(4,), (2, 2), (1,), ()])
def test_replays_are_the_eager_results(name, batch):
    frozen, eager, log = warmed_up(name)
    x, context = flows.make_inputs(frozen, *batch)
    noise = torch.randn(x.shape, dtype=x.dtype)
    shape = () if context is not None else batch
    results = [
        (flow(x, context), flow.sample(shape, context, noise=noise), *flow.to_data(noise, context))
        for flow in (frozen, eager)
    ]
    assert log == ["replayed"] * 3
    if not frozen.bounds:
        results = [
            (*found, flow.sample_denoised(0.1, shape, context, noise=noise))
            for flow, found in zip((frozen, eager), results, strict=True)
        ]
        assert log == ["replayed"] * 4
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_results_are_the_callers_own_and_inputs_stay():
    frozen, eager, log = warmed_up()
    x, context = flows.make_inputs(frozen, 4)
    kept = x.clone()
    first = frozen(x, context)
    second = frozen(x + 1, context)
    assert torch.equal(x, kept)
    torch.testing.assert_close(first, eager(x, context))
    torch.testing.assert_close(second, eager(x + 1, context))
    first.zero_()
    torch.testing.assert_close(frozen(x, context), eager(x, context))
    assert log == ["replayed"] * 3


def test_fresh_noise_is_fresh_and_follows_the_generator():
    frozen, eager, log = warmed_up()
    context = flows.make_inputs(frozen, 4)[1]
    assert not torch.equal(frozen.sample((), context), frozen.sample((), context))
    first, second = (
        flow.sample_denoised(0.1, (), context, temperature=0.5, generator=torch.Generator().manual_seed(3))
        for flow in (frozen, eager)
    )
    torch.testing.assert_close(first, second)
    assert log == ["replayed"] * 3


def test_everything_else_runs_eagerly():
    frozen, eager, log = warmed_up(sizes=(4,))
    x, context = flows.make_inputs(frozen, 4)
    assert torch.equal(frozen(x[:3], context[:3]), eager(x[:3], context[:3]))
    assert torch.equal(frozen(x, context[0]), eager(x, context[0]))
    assert torch.equal(frozen.score(x, context), eager.score(x, context))
    assert torch.equal(frozen.to_latent(x, context)[0], eager.to_latent(x, context)[0])
    assert torch.equal(frozen.condition(context).log_prob(x), eager.condition(context).log_prob(x))
    assert frozen.sample((2,), context).shape == (2, 4, 6)
    assert log == []


def test_wrong_input_is_refused_as_without_warmup():
    frozen, _, log = warmed_up(sizes=(4,))
    x, context = flows.make_inputs(frozen, 4)
    with pytest.raises(TypeError, match="x: expected dtype torch.float64"):
        frozen(x.float(), context)
    with pytest.raises(TypeError, match="context: expected dtype torch.float64"):
        frozen(x, context.float())
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 6\)"):
        frozen(x[:, :5], context)
    with pytest.raises(ValueError, match="context: expected shape"):
        frozen(x)
    with pytest.raises(TypeError, match="x: expected a torch.Tensor, got list"):
        frozen(x.tolist(), context)
    with pytest.raises(TypeError, match="context: expected a torch.Tensor, got list"):
        frozen(x, context.tolist())
    assert log == []


@pytest.mark.parametrize(
    ("encoder", "observation"),
    [(nfkern.Encoder(7, 5, width=8, layers=2), None), (nn.Linear(7, 5), torch.zeros(7, dtype=torch.float64))],
    ids=["encoder", "other"],
)
def test_the_encoder_is_captured_too(encoder, observation):
    frozen, eager, log = warmed_up(encoder=encoder, observation=observation)
    observations, noise = torch.randn(4, 7, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    actual = frozen.sample_denoised(0.1, (), observations, noise=noise)
    torch.testing.assert_close(actual, eager.sample_denoised(0.1, (), observations, noise=noise))
    assert log == ["replayed"]


def test_inference_mode_and_no_mode_may_alternate():
    with torch.inference_mode():
        frozen, eager, log = warmed_up()
    x, context = flows.make_inputs(frozen, 4)
    frozen(x, context)
    with torch.inference_mode():
        frozen(x, context)
    torch.testing.assert_close(frozen(x.requires_grad_(), context), eager(x, context))
    assert log == ["replayed"] * 3


def test_threads_take_turns():
    frozen, eager, _ = warmed_up(sizes=(4,))
    noise, context = (torch.randn(8, 4, n, dtype=torch.float64) for n in (6, 5))
    expected = [eager.to_data(n, c)[0] for n, c in zip(noise, context, strict=True)]
    wrong = []

    def work(k):
        found = [frozen.to_data(noise[k], context[k])[0] for _ in range(10)]
        wrong.extend(k for x in found if not torch.equal(x, expected[k]))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_copies_and_moves_forget_what_was_captured():
    frozen, eager, log = warmed_up()
    x, context = flows.make_inputs(frozen, 4)
    twin = copy.deepcopy(frozen)
    assert torch.equal(twin(x, context), eager(x, context))
    assert log == []
    frozen.to("cpu")(x, context)
    assert log == ["replayed"]
    assert not frozen.to("meta")._calls._calls


def test_warmup_on_a_cpu_runs_the_calls_and_captures_nothing():
    frozen = flows.make_flow().freeze()
    assert frozen.warmup([1, 3]) is frozen
    assert not frozen._calls._calls


def test_a_capture_follows_a_warmup_on_a_side_stream(monkeypatch):
    log, signature = [], inspect.signature(torch.cuda.graph)

    class Stream:
        def __init__(self, name="side"):
            self.name = name

        def wait_stream(self, other):
            log.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self):
            log.append("replay")

    @contextlib.contextmanager
    def inside(name):
        log.append(f"enter {name}")
        yield
        log.append(f"leave {name}")

    def graph(*args, **options):
        assert signature.bind(*args, **options).arguments["stream"].name == "side"
        return inside("capture")

    streams = []

    def new_stream(device):
        streams.append(device)
        return Stream()

    # Without its cache, which outlives this test.
    monkeypatch.setattr(cuda_graphs, "side_stream", functools.cache(cuda_graphs.side_stream.__wrapped__))
    fakes = {"device": lambda device: inside("device"), "stream": lambda stream: inside(stream.name), "graph": graph}
    fakes |= {"current_stream": lambda: Stream("current"), "Stream": new_stream, "CUDAGraph": Graph}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)

    def function(x):
        log.append("call")
        return (2 * x,)

    replay, outputs = capture_cuda(function, (torch.ones(2),))
    replay()
    assert torch.equal(outputs[0], torch.full((2,), 2.0))
    assert log == [
        "enter device",
        "side waits for current",
        "enter side",
        *["call"] * 3,
        "leave side",
        "current waits for side",
        "enter capture",
        "call",
        "leave capture",
        "leave device",
        "replay",
    ]
    capture_cuda(function, (torch.ones(2),))
    assert streams == [torch.device("cpu")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_real_graphs(dtype):
    flow, encoder = flows.make_flow(dtype=torch.float32).cuda(), nfkern.Encoder(7, 5, width=8, layers=2).cuda()
    eager = flow.freeze(dtype, encoder)
    frozen = flow.freeze(dtype, encoder).warmup([1, 4])
    for rows in (1, 4, 1):
        x, observations = torch.randn(rows, 6, device="cuda"), torch.randn(rows, 7, device="cuda")
        torch.testing.assert_close(frozen(x, observations), eager(x, observations))
        actual, expected = (f.sample_denoised(0.1, (), observations, noise=x) for f in (frozen, eager))
        torch.testing.assert_close(actual, expected)
