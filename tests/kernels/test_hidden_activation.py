"""A hidden layer's bias, activation and LayerNorm: values, gradients, and what is refused."""

import pytest
import torch
from support.coupling_problems import compare, compare_in_float64
from torch import nn

from nfkern.kernels import hidden_activation, use_reference

pytestmark = pytest.mark.usefixtures("_poisoned", "_native")

KINDS = {
    f"{activation}, {norm}": {"activation": activation, "norm": norm}
    for activation in ("silu", "gelu")
    for norm in ("first", "last", "none")
}
NAMES = ("result", "x", "bias", "norm_weight", "norm_bias")


def arguments(rows=5, width=7, members=(), spread=1.0):
    generator = torch.Generator().manual_seed(0)
    shapes = ((*members, rows, width), *[(*members, width)] * 3, (*members, rows, width))
    return [spread * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def with_gradients(activation, norm, eps=1e-6):
    def call(x, bias, norm_weight, norm_bias, grad, compute_dtype=None):
        norms = [] if norm == "none" else [norm_weight, norm_bias]
        leaves = [tensor.clone().requires_grad_() for tensor in (x, bias, *norms)]
        settings = {"norm_eps": eps, "activation": activation, "norm_first": norm == "first"}
        result = hidden_activation(*leaves, **settings)
        return result, *torch.autograd.grad(result, leaves, grad)

    return call


def names(kind):
    """The results' names; without LayerNorm there are fewer."""
    return NAMES[:3] if KINDS[kind]["norm"] == "none" else NAMES


def modules(activation, norm, width, eps=1e-6):
    """The same as PyTorch's modules."""
    made = nn.SiLU() if activation == "silu" else nn.GELU("tanh")
    layer_norm = nn.LayerNorm(width, eps=eps)
    order = {"first": [layer_norm, made], "last": [made, layer_norm], "none": [made]}
    return nn.Sequential(*order[norm]).double(), layer_norm.double()


@pytest.mark.parametrize("kind", KINDS)
def test_the_definition_is_pytorchs_modules(kind):
    x, bias, weight, shift, grad = arguments()
    layers, norm = modules(**KINDS[kind], width=7)
    norm.load_state_dict({"weight": weight, "bias": shift})
    entering = (x + bias).requires_grad_()
    expected = layers(entering)
    expected_grads = torch.autograd.grad(expected, [entering, *layers.parameters()], grad)
    with use_reference():
        found, grad_x, grad_bias, *grads = with_gradients(**KINDS[kind])(x, bias, weight, shift, grad)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close((grad_x, *grads), expected_grads)
    torch.testing.assert_close(grad_bias, expected_grads[0].sum(0))


# Widths of whole vectors and others; rows that are summed together, and more of them than that.
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 5), (33, 64), (7, 130), (300, 17)])
def test_values_and_gradients_equal_the_reference(kind, rows, width, instruction_set):
    given = arguments(rows, width)
    compare(with_gradients(**KINDS[kind]), given, names(kind), terms=max(rows, width))
    compare_in_float64(with_gradients(**KINDS[kind]), given, names(kind), terms=max(rows, width))


@pytest.mark.parametrize("kind", KINDS)
def test_large_numbers(kind):
    """Gates that are shut, or open, all the way."""
    given = arguments(40, 33, spread=200.0)
    given[1:] = arguments(40, 33)[1:]
    compare(with_gradients(**KINDS[kind]), given, names(kind), terms=40)


def test_what_is_no_number_stays_in_its_row():
    x, bias, weight, shift, _ = (each.float() for each in arguments(4, 20))
    x[1, 3], x[2, 19] = float("nan"), float("inf")
    result = hidden_activation(x, bias, weight, shift)
    assert result.isnan().all(1).tolist() == [False, True, True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_members_have_parameters_of_their_own(kind):
    given = [each.float() for each in arguments(40, 9, members=(2, 3))]
    together = with_gradients(**KINDS[kind])(*given)
    for member in ((0, 0), (1, 2)):
        alone = with_gradients(**KINDS[kind])(*(each[member] for each in given))
        for mine, expected in zip(together, alone, strict=True):
            assert torch.equal(mine[member], expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])
def test_bfloat16_is_rounded_once(kind, parameters):
    x, *rest, grad = arguments(40, 33)
    x, grad = x.bfloat16(), grad.bfloat16()
    rest = [each.to(parameters) for each in rest]
    found = with_gradients(**KINDS[kind])(x, *rest, grad)
    with use_reference():
        exact = with_gradients(**KINDS[kind])(*(each.double() for each in (x, *rest, grad)))
    for name, mine, expected in zip(names(kind), found, exact, strict=True):
        assert mine.dtype == (torch.bfloat16 if name in ("result", "x") else parameters)
        # Half a unit in the last place, and float32's own errors.
        eps = torch.finfo(mine.dtype).eps
        allowed = eps / 2 * expected.abs() + 40**0.5 * 4 * torch.finfo(torch.float32).eps * expected.abs().max()
        assert ((mine.double() - expected).abs() <= allowed).all(), name


def test_float16_runs_the_reference():
    x, bias, weight, shift, _ = (each.half() for each in arguments())
    with use_reference():
        expected = hidden_activation(x, bias, weight, shift)
    assert torch.equal(hidden_activation(x, bias, weight, shift), expected)


def test_strides_make_no_difference():
    given = [each.float() for each in arguments(40, 30)]
    call = with_gradients("silu", "first")
    apart = [each.repeat_interleave(2, -1)[..., ::2] for each in given]
    for mine, expected in zip(call(*apart), call(*given), strict=True):
        assert torch.equal(mine, expected)


def test_threads_change_nothing():
    given, before, found = [each.float() for each in arguments(200, 40)], torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(with_gradients("gelu", "last")(*given))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_to_the_second_derivative(kind):
    x, bias, *norms, _ = arguments(3, 4)
    settings = {"activation": KINDS[kind]["activation"], "norm_first": KINDS[kind]["norm"] == "first"}
    leaves = [each.requires_grad_() for each in (x, bias, *([] if KINDS[kind]["norm"] == "none" else norms))]

    def call(*tensors):
        return hidden_activation(*tensors, **settings)

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def test_compiles_as_one_graph():
    given = [each.float().requires_grad_() for each in arguments()[:4]]
    compiled = torch.compile(hidden_activation, fullgraph=True)
    for expected, actual in zip(
        torch.autograd.grad(hidden_activation(*given).sum(), given),
        torch.autograd.grad(compiled(*given).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(7).double()}, ValueError, r"x: expected shape \(..., rows, width\), got \(7,\)"),
        ({"bias": torch.zeros(6).double()}, ValueError, r"bias: expected shape \(7,\), got \(6,\)"),
        ({"norm_bias": torch.zeros(7)}, TypeError, "norm_bias: expected torch.float64 on cpu as x, got torch.float32"),
        ({"norm_bias": None}, ValueError, "norm_bias: expected a tensor where norm_weight is one"),
        ({"norm_eps": 0.0}, ValueError, "norm_eps: expected a finite number > 0, got 0.0"),
        ({"activation": "relu"}, ValueError, "activation: expected silu or gelu, got 'relu'"),
        ({"x": torch.zeros(5, 7).bfloat16()}, TypeError, "bias: expected torch.bfloat16 or torch.float32 on cpu as x"),
    ],
)
def test_bad_input_names_the_argument(change, error, message):
    given = dict(zip(("x", "bias", "norm_weight", "norm_bias"), arguments(), strict=False))
    with pytest.raises(error, match=message):
        hidden_activation(**(given | change))
