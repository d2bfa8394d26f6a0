"""What the native CPU kernels do with unusual inputs: not finite, not contiguous, not aligned, of the wrong shape."""

import copy

import pytest
import torch
from support import flows
from support.coupling_problems import (
    DIRECTIONS,
    GRADIENT_NAMES,
    gradients,
    mapping,
    problem,
    random_gradients,
    scores,
    single,
)

from nfkern.kernels import CouplingParameters, coupling, use_reference

pytestmark = pytest.mark.usefixtures("_native")
BF16 = torch.bfloat16
NAN, INFINITY = float("nan"), float("inf")


def calls(settings, matrices):
    """name -> a function of (x, context term, parameters) to (rows, ...) results."""
    sweep, score = scores(settings)

    def directed(direction):
        return lambda x, term, p, **o: mapping(direction, settings)(x, term, *matrices[direction == "to_data"], p, **o)

    return {
        "to_latent": directed("to_latent"),
        "to_data": directed("to_data"),
        "sweep": lambda x, term, p, **o: sweep(x, term, matrices[False][0], *matrices[True], p, **o),
        "score": lambda x, term, p, **o: score(x, term, *matrices[False], p, **o),
    }


def same_pattern(actual, expected):
    """NaN where NaN is expected, and the same infinities."""
    assert torch.equal(actual.isnan(), expected.isnan())
    infinite = expected.isinf()
    assert torch.equal(actual.isinf(), infinite)
    assert torch.equal(actual[infinite], expected[infinite])


@pytest.mark.slow
@pytest.mark.parametrize("compute_dtype", [None, BF16])
@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY, 1e30])
@pytest.mark.parametrize("where", [0, 9, 31, 36])
def test_a_row_that_is_not_finite_stays_alone(where, value, compute_dtype, instruction_set):
    x, term, matrices, parameters, settings = problem(rows=37, groups=37, hidden=(20, 18))
    matrices = {inverse: single(pair) for inverse, pair in matrices.items()}
    x, term, parameters = single((x, term, parameters))
    spoiled, spoiled_term = x.clone(), term.clone()
    spoiled[where, 1] = value
    spoiled_term[where, 0, 1, 2] = value
    others = torch.arange(37) != where
    for call in calls(settings, matrices).values():
        clean = call(x, term, parameters, compute_dtype=compute_dtype)
        for arguments in ((spoiled, term), (x, spoiled_term)):
            with use_reference():
                expected = call(*arguments, parameters, compute_dtype=compute_dtype)
            actual = call(*arguments, parameters, compute_dtype=compute_dtype)
            for a, e, c in zip(actual, expected, clean, strict=True):
                same_pattern(a, e)
                assert torch.equal(a[others], c[others])


@pytest.mark.parametrize("groups", [1, 37])
@pytest.mark.parametrize("value", [NAN, INFINITY])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradients_of_a_row_that_is_not_finite(direction, value, groups, instruction_set):
    x, term, matrices, parameters, settings = problem(rows=37, groups=groups)
    weights = random_gradients(x)
    x[36, 0] = value
    arguments = single((x, term, *matrices[direction == "to_data"], parameters, weights))
    call = gradients(direction, settings)
    with use_reference():
        expected = call(*arguments)
    for name, a, e in zip(GRADIENT_NAMES, call(*arguments), expected, strict=True):
        assert torch.equal(a.isfinite(), e.isfinite()), name


@pytest.mark.parametrize("name", CouplingParameters._fields)
@pytest.mark.parametrize("value", [NAN, INFINITY])
def test_a_weight_that_is_not_finite(name, value, instruction_set):
    x, term, matrices, parameters, settings = problem(rows=21, groups=7, hidden=(20, 18))
    # Of the second block's shift, at the end.
    getattr(parameters, name)[1, 1].view(-1)[-1] = value
    matrices = {inverse: single(pair) for inverse, pair in matrices.items()}
    for compute_dtype in (None, BF16):
        for call in calls(settings, matrices).values():
            arguments = single((x, term, parameters))
            with use_reference():
                expected = call(*arguments, compute_dtype=compute_dtype)
            for a, e in zip(call(*arguments, compute_dtype=compute_dtype), expected, strict=True):
                same_pattern(a, e)
    for direction in DIRECTIONS:
        arguments = single((x, term, *matrices[direction == "to_data"], parameters, random_gradients(x)))
        with use_reference():
            expected = gradients(direction, settings)(*arguments)
        for what, a, e in zip(GRADIENT_NAMES, gradients(direction, settings)(*arguments), expected, strict=True):
            assert torch.equal(a.isfinite(), e.isfinite()), what


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [300.0, 1e5])
def test_log_scales_that_overflow(spread, dtype, instruction_set):
    x, term, matrices, parameters, settings = problem(rows=21, groups=21, blocks=1, spread=spread)
    matrices = {inverse: tuple(t.to(dtype) for t in pair) for inverse, pair in matrices.items()}
    arguments = (x.to(dtype), term.to(dtype), CouplingParameters(*(p.to(dtype) for p in parameters)))
    infinite = 0
    for direction in DIRECTIONS:
        call = calls(settings, matrices)[direction]
        with use_reference():
            expected = call(*arguments)
        for a, e in zip(call(*arguments), expected, strict=True):
            same_pattern(a, e)
            infinite += int((~e.isfinite()).sum())
    assert infinite or spread < 1e5


def moved(tensor, how):
    """The same values, laid out in another way."""
    if how == "transposed":
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if how == "every_other":
        wide = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1]), NAN)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    # At an odd element: neither vectors nor pairs of bfloat16 are aligned.
    storage = tensor.new_full((tensor.numel() + 1,), NAN)
    storage[1:] = tensor.reshape(-1)
    return storage[1:].view(tensor.shape)


def rearranged(value, how):
    """`moved` for all tensors of some arguments."""
    if isinstance(value, torch.Tensor):
        return moved(value, how) if value.ndim else value
    if isinstance(value, CouplingParameters):
        return CouplingParameters(*(rearranged(each, how) for each in value))
    return value


@pytest.mark.parametrize("how", ["transposed", "every_other", "unaligned"])
@pytest.mark.parametrize("compute_dtype", [None, BF16])
@pytest.mark.usefixtures("_poisoned")
def test_layouts(how, compute_dtype, instruction_set):
    x, term, matrices, parameters, settings = problem(rows=42, groups=6, hidden=(18, 16))
    x, term, parameters = single((x, term, parameters))
    matrices = {inverse: single(pair) for inverse, pair in matrices.items()}
    for direction in DIRECTIONS:
        mixing, log_det = matrices[direction == "to_data"]
        call = mapping(direction, settings)
        for weights in (parameters, coupling.fold(parameters, compute_dtype)):
            arguments = (x, term, mixing, log_det, weights)
            expected = call(*arguments, compute_dtype=compute_dtype)
            actual = call(*(rearranged(each, how) for each in arguments), compute_dtype=compute_dtype)
            assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
        backward = getattr(torch.ops.nfkern, f"coupling_{direction}_backward").default
        grads = (torch.randn_like(x), torch.randn(42), torch.randn(2, *x.shape))
        arguments = (*grads, term, mixing, *parameters, 1e-5, None, compute_dtype, True)
        actual = backward(*(rearranged(each, how) for each in arguments))
        assert all(torch.equal(a, e) for a, e in zip(actual, backward(*arguments), strict=True))


def test_expanded_inputs(instruction_set):
    x, term, matrices, parameters, settings = problem(rows=1, groups=1)
    for direction in DIRECTIONS:
        call = calls(settings, matrices)[direction]
        expanded = call(x.expand(20, -1), term.expand(20, -1, -1, -1), parameters)
        repeated = call(x.repeat(20, 1), term.repeat(20, 1, 1, 1), parameters)
        assert all(torch.equal(a, e) for a, e in zip(expanded, repeated, strict=True))


def test_expanded_gradients(instruction_set):
    x, term, matrices, parameters, settings = problem(rows=20, groups=5)
    x.requires_grad_()
    for direction in DIRECTIONS:
        result, _ = calls(settings, matrices)[direction](x, term, parameters)
        # That of a sum is one number, expanded.
        expanded, whole = (
            torch.autograd.grad(result, x, grad, retain_graph=True)[0]
            for grad in (result.new_ones(()).expand_as(result), torch.ones_like(result))
        )
        assert torch.equal(expanded, whole)


def test_inputs_are_never_written(instruction_set):
    x, term, matrices, parameters, settings = problem(rows=21, groups=7)
    tensors = [x, term, *matrices[False], *matrices[True], *parameters]
    before = [t.clone() for t in tensors]
    for call in calls(settings, matrices).values():
        call(x, term, parameters)
    for direction in DIRECTIONS:
        gradients(direction, settings)(x, term, *matrices[direction == "to_data"], parameters, random_gradients(x))
    assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))


def test_an_empty_batch_runs_on_the_reference():
    x, term, matrices, parameters, settings = problem(rows=4, groups=4)
    z, log_det = mapping("to_latent", settings)(x[:0], term[:0], *matrices[False], parameters)
    assert (z.shape, log_det.shape) == ((0, 6), (0,))
    leaf = x[:0].clone().requires_grad_()
    mapping("to_data", settings)(leaf, term[:0], *matrices[True], parameters)[0].sum().backward()
    assert leaf.grad.shape == (0, 6)
    assert scores(settings)[0](x[:0], term[:0], matrices[False][0], *matrices[True], parameters)[2].shape == (0, 6)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("name", CouplingParameters._fields)
def test_a_parameter_of_the_wrong_shape_is_refused(name, axis):
    """And not read past its end."""
    x, term, matrices, parameters, settings = problem(rows=3, groups=3)
    right = getattr(parameters, name)
    wrong = right.narrow(axis, 0, right.shape[axis] - 1)
    for direction in DIRECTIONS:
        arguments = (x, term, *matrices[direction == "to_data"], parameters._replace(**{name: wrong}))
        with pytest.raises((ValueError, RuntimeError)):
            mapping(direction, settings)(*arguments)


def in_place(flow):
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(1.1)


def data(flow):
    for parameter in flow.parameters():
        parameter.data.mul_(1.1)


def optimiser_step(flow):
    optimiser = torch.optim.AdamW(flow.parameters(), lr=1e-2)
    flow(*flows.make_inputs(flow, 8)).mean().backward()
    optimiser.step()


def polyak(flow):
    other = flows.make_flow(dtype=torch.float32, seed=9)
    with torch.no_grad():
        for mine, theirs in zip(flow.parameters(), other.parameters(), strict=True):
            mine.lerp_(theirs, 0.3)


def load(flow):
    flow.load_state_dict(flows.make_flow(dtype=torch.float32, seed=9).state_dict())


def copied(flow):
    flow = copy.deepcopy(flow)
    in_place(flow)
    return flow


def in_float64(flow):
    return flow.double()


@pytest.mark.parametrize("change", [in_place, data, optimiser_step, polyak, load, copied, in_float64])
def test_nothing_is_stale(change):
    flow = flows.make_flow(dtype=torch.float32).eval()

    def results(flow):
        x, context = flows.make_inputs(flow, 21)
        with torch.no_grad():
            return [flow(x, context), flow.to_data(x, context)[0], flow.score(x, context)]

    before = results(flow)
    changed = change(flow) or flow
    with use_reference():
        expected = results(changed)
    actual = results(changed)
    for a, e, b in zip(actual, expected, before, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)
        assert change is in_float64 or (a - b).abs().max() > 1e-2
