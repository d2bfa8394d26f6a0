"""A frozen flow as an object: apart from its source, fixed, copied, moved, shared between threads and processes."""

import copy
import io
import multiprocessing
import threading

import pytest
import torch
from support import flows
from support.selected import exhaustive
from torch import nn

import nfkern


def test_nothing_is_shared_with_the_source():
    flow, encoder = flows.make_flow().eval(), nfkern.Encoder(7, 5, width=8, layers=2).double()
    x, _ = flows.make_inputs(flow, 4)
    observations = torch.randn(4, 7, dtype=torch.float64)
    frozen = flow.freeze(encoder=encoder)
    before = frozen(x, observations)
    for tensor in [*flow.parameters(), *encoder.parameters(), *(b for b in flow.buffers() if b.is_floating_point())]:
        tensor.data.mul_(1.5)
    flow.permutation.copy_(flow.permutation.flip(0))
    flow.to(torch.float32)
    flow.norm_eps = 1.0
    assert torch.equal(frozen(x, observations), before)


def test_nothing_records_gradients():
    flow, encoder = flows.make_flow(), nfkern.Encoder(7, 5, width=8, layers=2).double()
    frozen = flow.freeze()
    x, context = (t.requires_grad_() for t in flows.make_inputs(flow, 4))
    noise = torch.randn_like(x).requires_grad_()
    results = [frozen(x, context), frozen.score(x, context), *frozen.to_latent(x, context), *frozen.to_data(x, context)]
    results += [frozen.sample((), context, noise=noise), frozen.sample_denoised(0.1, (), context, noise=noise)]
    assert not any(result.requires_grad for result in results)
    assert not frozen.condition(context).log_prob(x).requires_grad
    assert not list(frozen.parameters())
    with_encoder = flow.freeze(encoder=encoder)
    assert not any(p.requires_grad for p in with_encoder.parameters())
    assert not with_encoder(x, torch.randn(4, 7, dtype=torch.float64, requires_grad=True)).requires_grad
    assert all(p.requires_grad for p in [*flow.parameters(), *encoder.parameters()])
    for call in (frozen.rsample, frozen.rsample_and_log_prob):
        with pytest.raises(RuntimeError, match="rsample.*: a frozen flow has no gradients; use torch.no_grad"):
            call((), context)
    with torch.no_grad():
        sample, log_prob = frozen.rsample_and_log_prob((), context)
        torch.testing.assert_close(frozen(sample, context), log_prob)
    with torch.inference_mode():
        assert frozen.condition(context).rsample().shape == x.shape


def test_training_mode_changes_nothing():
    flow = flows.make_flow("context_dropout", dtype=torch.float32)
    encoder = nn.Sequential(nn.Linear(7, 5), nn.Dropout(0.5))
    frozen = nn.ModuleList([flow.freeze(encoder=encoder)]).train()[0]
    assert not any(module.training for module in frozen.modules())
    x, observations = torch.randn(4, 6), torch.randn(4, 7)
    torch.testing.assert_close(frozen(x, observations), flow.eval()(x, encoder.eval()(observations)))


def saved_and_loaded(frozen):
    buffer = io.BytesIO()
    torch.save(frozen, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, saved_and_loaded], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int8])
def test_copies_are_the_same_and_apart(duplicate, dtype):
    flow = flows.make_flow(dtype=torch.float64)
    frozen = flow.freeze(dtype, nfkern.Encoder(7, 5, width=8, layers=2)).warmup([1])
    rest = frozen.input_bias.dtype
    x, observations = torch.randn(4, 6, dtype=rest), torch.randn(4, 7, dtype=rest)
    before, twin = frozen(x, observations), duplicate(frozen)
    assert torch.equal(twin(x, observations), before)
    assert twin.dtype == dtype
    assert not twin.training
    frozen.hidden_weight.zero_()
    assert torch.equal(twin(x, observations), before)


def _log_prob_in_another_process(frozen, x, context, results):
    torch.set_num_threads(1)
    results.put(frozen(x, context).tolist())


@pytest.mark.slow
def test_workers_get_it_by_spawning():
    flow = flows.make_flow(dtype=torch.float32)
    frozen, (x, context) = flow.freeze(torch.bfloat16), flows.make_inputs(flow, 4)
    spawning = multiprocessing.get_context("spawn")
    results = spawning.SimpleQueue()
    worker = spawning.Process(target=_log_prob_in_another_process, args=(frozen, x, context, results))
    worker.start()
    assert results.get() == frozen(x, context).tolist()
    worker.join()
    assert worker.exitcode == 0


def test_threads_get_the_same_bits():
    flow = flows.make_flow(dtype=torch.float32)
    frozen = flow.freeze(torch.bfloat16, nfkern.Encoder(7, 5, width=8, layers=2))
    noise, observations = torch.randn(8, 5, 6), torch.randn(8, 5, 7)
    expected = [frozen.sample_denoised(0.1, (), o, noise=n) for o, n in zip(observations, noise, strict=True)]
    wrong = []

    def work(offset):
        for i in range(20):
            k = (i + offset) % 8
            found = frozen.sample_denoised(0.1, (), observations[k], noise=noise[k])
            if not torch.equal(found, expected[k]):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_freezing_in_inference_mode():
    with torch.inference_mode():
        frozen = flows.make_flow().freeze()
    assert not any(buffer.is_inference() for buffer in frozen.buffers())


@pytest.mark.parametrize(
    "cast", [lambda f: f.half(), lambda f: f.double(), lambda f: f.to(torch.float32), lambda f: f.bfloat16()]
)
def test_casts_are_refused_and_leave_it_whole(cast):
    flow = flows.make_flow(dtype=torch.float32)
    frozen, (x, context) = flow.freeze(torch.bfloat16), flows.make_inputs(flow, 4)
    before = frozen(x, context)
    with pytest.raises(TypeError, match="dtype: expected torch.* as frozen, got torch.*; freeze the flow it came from"):
        cast(frozen)
    assert torch.equal(frozen(x, context), before)


def test_moves():
    frozen = flows.make_flow(dtype=torch.float32).freeze(torch.bfloat16)
    assert frozen.to("cpu") is frozen
    assert frozen.to("meta").hidden_weight.is_meta
    assert frozen.hidden_weight.dtype == torch.bfloat16
    assert flows.make_flow(dtype=torch.float32).freeze().float().share_memory().mixing.is_shared()


def test_nan_weights_are_named_after_freezing_too():
    flow = flows.make_flow()
    frozen, x = flow.freeze(encoder=nfkern.Encoder(7, 5, width=8)), flows.make_inputs(flow, 4)[0]
    frozen.encoder[0].weight[1, 2] = float("nan")
    with pytest.raises(
        ValueError, match=r"encoder.0.weight: expected finite parameters, got NaN first at index \[1, 2"
    ):
        frozen(x, torch.randn(4, 7, dtype=torch.float64))


def with_a_value(name, value):
    flow = flows.make_flow(dtype=torch.float32)
    with torch.no_grad():
        flow.get_parameter(name).view(-1)[0] = value
    return flow


@pytest.mark.parametrize(
    ("freeze", "error", "message"),
    [
        (
            lambda f: f.freeze(torch.int16),
            ValueError,
            "dtype: expected one of .*, torch.int8 for a CouplingFlow, got torch.int16",
        ),
        (lambda f: f.freeze(torch.float8_e5m2), ValueError, "dtype: expected one of .*, got torch.float8_e5m2"),
        (lambda f: f.freeze("bf16"), ValueError, "dtype: expected one of .*, got 'bf16'"),
        (lambda f: f.freeze(encoder=len), TypeError, "encoder: expected a torch.nn.Module, got builtin_function"),
        (
            lambda f: f.freeze(encoder=nfkern.Encoder(7, 4, width=8)),
            ValueError,
            "encoder: expected out_features=5 as the flow's context_features, got 4",
        ),
        (
            lambda f: flows.make_flow("unconditional").freeze(encoder=nn.Identity()),
            ValueError,
            "encoder: expected None for a flow with context_features=0, got a module",
        ),
        (lambda f: f.freeze().freeze(), TypeError, "flow: expected a flow with parameters, got a FrozenFlow"),
        (lambda f: nfkern.FrozenFlow(f.freeze()), TypeError, "flow: expected a CouplingFlow, got FrozenFlow"),
        (lambda f: f.freeze().save_pretrained("x"), TypeError, "FrozenFlow: save the flow it came from"),
        (lambda f: nfkern.FrozenFlow.from_pretrained("x"), TypeError, "FrozenFlow: load the flow it came from"),
        (
            lambda f: with_a_value("norm1_weight", float("nan")).freeze(),
            ValueError,
            "hidden_weight: not finite when frozen in torch.float32: the flow has NaN",
        ),
        (
            lambda f: with_a_value("hidden_weight", 1e6).freeze(torch.float16),
            ValueError,
            "hidden_weight: not finite when frozen in torch.float16: .* too large",
        ),
        (lambda f: f.freeze().warmup([0]), ValueError, "batch_sizes: expected an int >= 1, got 0"),
        (lambda f: f.freeze().warmup([1], torch.zeros(5)), ValueError, r"observation: expected None, .*shape \(5,\)"),
        (
            lambda f: f.freeze(encoder=nn.Linear(7, 5)).warmup([1]),
            ValueError,
            r"observation: expected an example of shape \(in_features,\), got None",
        ),
        (
            lambda f: f.freeze(encoder=nn.Linear(7, 5)).warmup([1], torch.zeros(1, 7)),
            ValueError,
            r"observation: expected an example of shape \(in_features,\), got \(1, 7\)",
        ),
        (
            lambda f: f.freeze(encoder=nn.LSTM(7, 5)).sample((), torch.randn(2, 7)),
            ValueError,
            r"encoder: expected contexts of shape \(2, 5\) for observations \(2, 7\), got \(\)",
        ),
        (
            lambda f: f.freeze(encoder=nn.Linear(7, 5)).sample((), [1.0] * 7),
            TypeError,
            "context: expected a torch.Tensor of observations, got list",
        ),
        (
            lambda f: f.freeze(encoder=nn.Flatten(0)).sample((), torch.randn(2, 5)),
            ValueError,
            r"encoder: expected contexts of shape \(2, 5\) for observations \(2, 5\), got \(10,\)",
        ),
        (
            lambda f: f.freeze(encoder=nfkern.Encoder(7, 5, width=8)).sample((), torch.randn(2, 5)),
            ValueError,
            r"context: expected shape \(..., 7\), got \(2, 5\)",
        ),
        (
            lambda f: f.freeze(encoder=nfkern.Encoder(7, 5, width=8)).sample((), torch.randn(7).double()),
            TypeError,
            "context: expected dtype torch.float32 as the parameters, got torch.float64",
        ),
        (lambda f: f.freeze()(torch.randn(3, 4), torch.randn(3, 5)), ValueError, r"x: expected shape \(..., 6\), got"),
        (lambda f: f.freeze().sample(), ValueError, r"context: expected shape \(..., 5\), got None"),
        (lambda f: f.freeze().sample((), torch.randn(5), sigma=1), TypeError, "unexpected keyword"),
        (
            lambda f: flows.make_flow("tanh_bounds").freeze().sample_denoised(0.1, (), torch.zeros(5).double()),
            ValueError,
            "bounds: expected None for denoising",
        ),
    ],
)
def test_bad_input_is_named(freeze, error, message):
    with pytest.raises(error, match=message):
        freeze(flows.make_flow(dtype=torch.float32))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, exhaustive(torch.bfloat16, part="sweeps")])
def test_compiles_as_one_graph(dtype):
    flow = flows.make_flow(dtype=torch.float32)
    frozen = flow.freeze(dtype, nfkern.Encoder(7, 5, width=8, layers=2)).warmup([8])
    x, observations = torch.randn(8, 6), torch.randn(8, 7)
    compiled = {
        "log_prob": lambda: frozen(x, observations),
        "sample": lambda: frozen.sample((2,), observations, deterministic=True),
        "denoised": lambda: frozen.sample_denoised(0.1, (), observations, deterministic=True),
        "score": lambda: frozen.score(x, observations),
    }
    for call in compiled.values():
        # A compiled call takes the general path, which on a CPU rounds elsewhere than the one step of C++ does; the
        # tolerance is that of test_acting.py, which compares the two.
        expected = call()
        tolerance = 64 * torch.finfo(dtype).eps
        atol = tolerance * float(expected.abs().max())
        torch.testing.assert_close(torch.compile(call, fullgraph=True)(), expected, rtol=tolerance, atol=atol)
