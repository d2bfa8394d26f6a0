"""Bad input gets an error that names the argument and prints what was expected and what came."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import flows

import nfkern


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": 0}, "features: expected an int >= 1, got 0"),
        ({"features": 2.5}, "features: expected an int >= 1, got 2.5"),
        ({"context_features": -1}, "context_features: expected an int >= 0, got -1"),
        ({"blocks": 0}, "blocks: expected an int >= 1, got 0"),
        ({"hidden": (8,)}, r"hidden: expected two widths >= 1, got \(8,\)"),
        ({"hidden": (8, 0)}, "hidden: expected two widths"),
        ({"hidden": 8}, "hidden: expected two widths >= 1, got 8"),
        ({"norm_eps": 0.0}, "norm_eps: expected a number > 0"),
        ({"mixing": "lu"}, "mixing: expected 'plu', 'permute' or 'none', got 'lu'"),
        ({"inverted": "false"}, "inverted: expected True or False, got 'false'"),
        ({"scale_bound": -1.0}, "scale_bound: expected None or a number > 0, got -1.0"),
        (
            {"bounds": "sigmoid"},
            r"bounds: expected None, 'tanh' or \(low, high\), each a number or 4 .*, got 'sigmoid'",
        ),
        ({"bounds": 1.0}, r"bounds: expected None, 'tanh' or \(low, high\), .* got 1.0"),
        ({"bounds": (0, 1, 2)}, r"bounds: expected None, 'tanh' or \(low, high\)"),
        ({"bounds": ([0, 0], [1, 1])}, r"bounds: expected .* each a number or 4 of them, got \(\[0, 0\], \[1, 1\]\)"),
        ({"bounds": ([0], 1)}, "bounds: expected None, 'tanh'"),
        ({"bounds": (torch.zeros(1, 4), 1)}, "bounds: expected None, 'tanh'"),
        ({"bounds": (0, "x")}, "bounds: expected None, 'tanh'"),
        ({"bounds": (0, [1, 1, 0, 1])}, "bounds: expected low < high in float32, got 0.0 and 0.0 for feature 2"),
        ({"bounds": (1, 0)}, "bounds: expected low < high in float32, got 1.0 and 0.0 for feature 0"),
        ({"bounds": (1e8, 1e8 + 1)}, "bounds: expected low < high in float32"),
        ({"bounds": (-math.inf, 0)}, "bounds: expected finite numbers, got -inf and 0.0 for feature 0; .* bounds=None"),
        ({"bounds": (0, math.nan)}, "bounds: expected finite numbers"),
        ({"bounds": (-1e300, 0)}, "bounds: expected finite numbers"),
        ({"context_dropout": 1.0}, r"context_dropout: expected a probability in \[0, 1\), got 1.0"),
    ],
)
def test_constructor(arguments, message):
    with pytest.raises(ValueError, match=message):
        nfkern.CouplingFlow(**({"features": 4} | arguments))


CALLS = {
    "log_prob": lambda flow, x, context: flow.log_prob(x, context),
    "to_latent": lambda flow, x, context: flow.to_latent(x, context),
    "to_data": lambda flow, x, context: flow.to_data(x, context),
    "score": lambda flow, x, context: flow.score(x, context),
    "distribution": lambda flow, x, context: flow.condition(context).log_prob(x),
}
every_call = pytest.mark.parametrize("call", list(CALLS.values()), ids=list(CALLS))


@every_call
@given(size=st.integers(0, 20).filter(lambda n: n != 6), batch=st.lists(st.integers(0, 3), max_size=2))
def test_wrong_feature_size(call, size, batch):
    flow = flows.make_flow()
    with pytest.raises(ValueError, match=r"[xz]: expected shape \(\.\.\., 6\), got \("):
        call(flow, torch.randn(*batch, size, dtype=torch.float64), torch.randn(*batch, 5, dtype=torch.float64))


@every_call
@given(size=st.integers(0, 20).filter(lambda n: n != 5), batch=st.lists(st.integers(0, 3), max_size=2))
def test_wrong_context_size(call, size, batch):
    flow = flows.make_flow()
    with pytest.raises(ValueError, match=r"context: expected shape \(\.\.\., 5\), got \("):
        call(flow, torch.randn(*batch, 6, dtype=torch.float64), torch.randn(*batch, size, dtype=torch.float64))


@every_call
@given(
    shapes=st.tuples(
        st.lists(st.integers(2, 5), min_size=1, max_size=2), st.lists(st.integers(2, 5), min_size=1, max_size=2)
    ).filter(lambda pair: any(a != b for a, b in zip(reversed(pair[0]), reversed(pair[1]), strict=False)))
)
def test_batches_that_do_not_broadcast(call, shapes):
    flow = flows.make_flow()
    x, context = (torch.randn(*b, n, dtype=torch.float64) for b, n in zip(shapes, (6, 5), strict=True))
    with pytest.raises(ValueError, match=r"context: batch shape \(.*\) does not broadcast against batch shape \("):
        call(flow, x, context)


@every_call
def test_missing_and_unwanted_contexts(call):
    conditional, unconditional = flows.make_flow(), flows.make_flow("unconditional")
    x, context = flows.make_inputs(conditional, 3)
    with pytest.raises(ValueError, match=r"context: expected shape \(\.\.\., 5\), got None"):
        call(conditional, x, None)
    with pytest.raises(ValueError, match=r"context: this flow has context_features=0, got shape \(3, 5\)"):
        call(unconditional, x, context)


@every_call
def test_wrong_dtypes_and_devices(call):
    flow = flows.make_flow()
    x, context = flows.make_inputs(flow, 3)
    with pytest.raises(TypeError, match=r"[xz]: expected dtype torch.float64 as the parameters, got torch.float32"):
        call(flow, x.float(), context)
    with pytest.raises(TypeError, match=r"context: expected dtype torch.float64 as the parameters, got torch.int64"):
        call(flow, x, context.long())
    with pytest.raises(TypeError, match=r"[xz]: expected a tensor on cpu as the parameters, got meta"):
        call(flow, x.to("meta"), context)
    with pytest.raises(TypeError, match=r"[xz]: expected a torch.Tensor, got list"):
        call(flow, x.tolist(), context)
    with pytest.raises(TypeError, match="parameters: expected float32 or float64, got torch.bfloat16; use autocast"):
        call(flow.bfloat16(), x.bfloat16(), context.bfloat16())


@pytest.mark.parametrize("parameter", [name for name, _ in flows.make_flow().named_parameters()])
@pytest.mark.parametrize("method", ["log_prob", "to_data", "sample_denoised"])
def test_nan_parameters_are_named(parameter, method):
    flow = flows.make_flow().eval()
    x, context = flows.make_inputs(flow, 3)
    with torch.no_grad():
        flow.get_parameter(parameter).view(-1)[-1] = float("nan")
    if parameter in ("mixing_lu",):
        assert flow.mixing_lu.isnan().any()
    with pytest.raises(ValueError, match=rf"{parameter}: expected finite parameters, got NaN first at index \["):
        flow.sample_denoised(0.1, (), context) if method == "sample_denoised" else getattr(flow, method)(x, context)


def test_nan_data_pass_through():
    flow = flows.make_flow()
    x, context = flows.make_inputs(flow, 3)
    x[1, 0] = float("nan")
    assert flow(x, context).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": torch.zeros(3, 6, dtype=torch.float64)}, r"noise: expected shape \(2, 3, 6\), got \(3, 6\)"),
        ({"noise": torch.zeros(2, 3, 6)}, None),
        ({"temperature": -1.0}, "temperature: expected a finite number >= 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature: expected a finite number >= 0, got nan"),
    ],
)
def test_sampling_options(options, message):
    flow = flows.make_flow()
    context = flows.make_inputs(flow, 3)[1]
    with pytest.raises(ValueError if message else TypeError, match=message or "z: expected dtype torch.float64"):
        flow.sample((2,), context, **options)
    with pytest.raises(TypeError, match="unexpected keyword"):
        flow.sample((2,), context, temprature=1.0)


def test_sample_shape():
    flow = flows.make_flow("unconditional")
    with pytest.raises(TypeError, match="sample_shape: expected a tuple of ints, got int"):
        flow.sample(10)
    for shape in ((-2,), (2.0,)):
        with pytest.raises(ValueError, match=rf"sample_shape: expected ints >= 0, got \({shape[0]},\)"):
            flow.sample(shape)


def test_noise_that_is_no_tensor():
    with pytest.raises(TypeError, match=r"noise: expected a torch.Tensor, got list"):
        flows.make_flow("unconditional").sample((2,), noise=[0.0, 1.0])


def test_sigma():
    flow = flows.make_flow("unconditional")
    with pytest.raises(ValueError, match="sigma: expected a finite number >= 0, got -0.1"):
        flow.sample_denoised(-0.1)


def test_encoder_and_normalizer():
    with pytest.raises(ValueError, match="width: expected an int >= 1, got 0"):
        nfkern.Encoder(3, 4, width=0)
    with pytest.raises(ValueError, match=r"inputs: expected shape \(\.\.\., 3\), got \(2, 4\)"):
        nfkern.Encoder(3, 4, width=8)(torch.randn(2, 4))
    with pytest.raises(ValueError, match=r"data: expected shape \(rows >= 1, features\), got \(0, 3\)"):
        nfkern.Normalizer.fit(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="data: expected finite values"):
        nfkern.Normalizer.fit(torch.tensor([[1.0, float("inf")]]))
    with pytest.raises(ValueError, match="mode: expected 'standard', 'min_max' or 'none', got 'max'"):
        nfkern.Normalizer(3, "max")
