"""Encoders that a flow is frozen with: any module that works, and every other one is refused at once."""

import pytest
import torch
from support import flows
from torch import nn

import nfkern
from nfkern.flows.native_calls import native_reasons


def flow():
    return flows.make_flow("paper", torch.float32)


class OfTwo(nn.Module):
    def forward(self, observations, goals):
        return observations


class Sliced(nn.Module):
    """Needs no weight, and its width cannot be known."""

    def forward(self, observations):
        return observations[..., 10:15]


class Picture(nn.Module):
    """Takes observations that are as wide as no weight."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 2, 3), nn.Linear(2 * 8 * 8, 5)

    def forward(self, observations):
        batch = observations.shape[:-1]
        return self.last(self.first(observations.reshape(-1, 1, 10, 10)).flatten(1)).reshape(*batch, 5)


class Cut(nn.Module):
    """Leaves the first features out, so that no weight is as wide as its observations."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(7, 5)

    def forward(self, observations):
        return self.last(observations[..., 3:])


class LargePicture(nn.Module):
    """Takes observations wider than any that are tried."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 5)

    def forward(self, observations):
        return self.last(observations.reshape(len(observations), 3, 30, 30).mean((2, 3)))


class Raising(nn.Module):
    def forward(self, observations):
        raise KeyError("goal")


class Noisy(nn.Module):
    def forward(self, observations):
        return observations + torch.randn_like(observations)


WORKING = {
    "linear": (lambda: nn.Linear(7, 5), 7),
    "mlp": (lambda: nn.Sequential(nn.Sequential(nn.Linear(7, 9), nn.ReLU()), nn.Linear(9, 5)), 7),
    "normalised": (lambda: nn.Sequential(nn.LayerNorm(7), nn.Linear(7, 5)), 7),
    "identity": (nn.Identity, 5),
    "sliced": (Sliced, 20),
    "picture": (Picture, 100),
    "cut": (Cut, 10),
    "large_picture": (LargePicture, 2700),
    "in_float64": (lambda: nn.Linear(7, 5).double(), 7),
    "hidden_without_bias": (
        lambda: changed(lambda encoder: encoder.__setitem__(3, nn.Linear(16, 16, bias=False))),
        7,
    ),
    "longer": (lambda: changed(lambda encoder: encoder.insert(2, nn.Dropout(0.5))), 7),
}


def changed(change):
    encoder = nfkern.Encoder(7, 5, width=16, layers=3)
    change(encoder)
    return encoder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8])
@pytest.mark.parametrize("name", WORKING)
def test_encoders_that_work(name, dtype):
    make, width = WORKING[name]
    encoder = make()
    frozen = flow().freeze(dtype, encoder)
    rest = frozen.input_bias.dtype
    observations, x = torch.randn(3, width).to(rest), torch.randn(3, 6).to(rest)
    contexts = encoder.eval().to(rest)(observations)
    expected, tolerance = flow().freeze(dtype)(x, contexts), 1e-4 if dtype.itemsize > 2 else 0.2
    torch.testing.assert_close(frozen(x, observations), expected, rtol=tolerance, atol=tolerance)


REFUSED = {
    "too_wide": (
        lambda: nn.Linear(7, 4),
        ValueError,
        r"contexts of shape \(2, 5\) for observations \(2, 7\), got \(2, 4\)",
    ),
    "inside": (
        lambda: nn.ModuleDict({"a": nn.Linear(7, 4)}),
        ValueError,
        "does not run on observations",
    ),
    "wrapped": (lambda: Wrapped(nn.Linear(7, 4)), ValueError, r"contexts of shape \(2, 5\) .* \(2, 7\), got \(2, 4\)"),
    "flattened": (lambda: nn.Flatten(0), ValueError, r"contexts of shape \(2, 5\) .*, got \(10,\)"),
    "recurrent": (lambda: nn.LSTM(7, 5), ValueError, r"contexts of shape \(2, 5\) for observations \(2, 7\), got \(\)"),
    "of_two": (OfTwo, TypeError, "a module that takes observations alone, got one with missing .* 'goals'"),
    "without_forward": (nn.Module, ValueError, "does not run on observations"),
    "of_images": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 5)),
        ValueError,
        r"does not run on observations \(2, \d+\): Expected 3D",
    ),
    "raising": (Raising, ValueError, r"does not run on observations \(2, \d+\): 'goal'"),
    "the_flow": (
        flow,
        ValueError,
        r"does not run on observations \(2, \d+\): context: expected shape \(..., 5\), got None",
    ),
    "meta": (
        lambda: nn.Linear(7, 5, device="meta"),
        ValueError,
        "encoder.weight: expected .* got one on the meta device",
    ),
    "lazy": (lambda: nn.LazyLinear(5), ValueError, "encoder.weight: expected a parameter with values, got none yet"),
    "does_not_fit": (
        lambda: nn.Sequential(nn.Linear(7, 9), nn.Linear(8, 5)),
        ValueError,
        r"does not run on observations \(2, 7\)",
    ),
    "encoder_does_not_fit": (
        lambda: changed(lambda encoder: encoder.__setitem__(3, nn.Linear(17, 16))),
        ValueError,
        r"does not run on observations \(2, 7\)",
    ),
    "encoder_of_other_contexts": (
        lambda: changed(lambda encoder: encoder.__setitem__(9, nn.Linear(16, 4))),
        ValueError,
        r"contexts of shape \(2, 5\) for observations \(2, 7\), got \(2, 4\)",
    ),
}


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, observations):
        return self.inner(observations)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", REFUSED)
def test_encoders_that_do_not_work_are_refused_at_once(name, dtype):
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=f"^encoder.*: .*{message}|^{message}"):
        flow().freeze(dtype, make())


def test_freezing_leaves_the_generator_alone():
    torch.manual_seed(0)
    source = flow()
    before = torch.get_rng_state()
    source.freeze(encoder=Noisy())
    assert torch.equal(torch.get_rng_state(), before)


LAYERS = {
    "batch_norm": lambda: nn.Sequential(nn.Linear(7, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)),
    "prelu": lambda: nn.Sequential(nn.Linear(7, 8), nn.PReLU(8), nn.Linear(8, 5)),
    "torchscript": lambda: torch.jit.script(nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 5))),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", LAYERS)
def test_an_encoder_sees_rows_and_no_autocast(name):
    """BatchNorm1d and PReLU take axis 1 for the features, of one observation and of several batch dimensions, too."""
    encoder = LAYERS[name]().eval()
    frozen, x, observations = flow().freeze(encoder=encoder), torch.randn(6, 6), torch.randn(6, 7)
    with torch.no_grad():
        expected = flow().freeze()(x, encoder(observations))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(frozen(x, observations), expected)
    folded = frozen(x.view(2, 3, 6), observations.view(2, 3, 7))
    torch.testing.assert_close(folded, expected.view(2, 3))
    torch.testing.assert_close(frozen(x[0], observations[0]), expected[0])
    assert frozen.act(observations[0].numpy()).shape == (6,)
    assert frozen.act(observations[:0].numpy()).shape == (0, 6)


def test_observations_without_dimension():
    frozen = flow().freeze(encoder=Wrapped(nn.Linear(7, 5)))
    with pytest.raises(ValueError, match=r"expected observations of shape \(\.\.\., in_features\), got \(\)"):
        frozen.sample((), torch.tensor(1.0))


def test_a_compiled_encoder_is_tried_once(monkeypatch):
    """Every width tried in vain would be one more compilation, with its complaints."""
    widths, compiled = [], torch.compile(nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 5)), backend="eager")
    call = type(compiled).__call__
    monkeypatch.setattr(
        type(compiled), "__call__", lambda module, inputs: widths.append(inputs.shape[-1]) or call(module, inputs)
    )
    flow().freeze(encoder=compiled)
    assert widths == [7]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_the_encoders_epsilon_is_kept(dtype):
    flow = flows.make_flow("paper", torch.float32)
    encoder = nfkern.Encoder(7, flow.context_features, width=24, layers=3, norm_eps=0.5)
    frozen, x, observations = flow.freeze(dtype, encoder), torch.randn(20, flow.features), torch.randn(20, 7)
    # The one step of C++ takes it, too.
    assert native_reasons(frozen) == []
    with torch.no_grad():
        expected = flow.log_prob(x, encoder(observations))
        other = nfkern.Encoder(7, flow.context_features, width=24, layers=3)
        other.load_state_dict(encoder.state_dict())
        without = flow.log_prob(x, other(observations))
    error = (frozen.log_prob(x, observations) - expected).abs().max()
    assert error < 0.2 * (without - expected).abs().max()
    if dtype == torch.float32:
        assert error < 1e-4
