"""Causal affine coupling: shift by one token, both orders, and the log-determinant that is passed along."""

import pytest
import torch

from nfkern.kernels import causal_affine, use_reference

ROWS, TOKENS, FEATURES = 3, 4, 2


def arguments(pairs=TOKENS, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = (ROWS, TOKENS, FEATURES), (ROWS, pairs, 2, FEATURES), (ROWS,)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("bound", [None, 0.8])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("given", [TOKENS, TOKENS - 1])
def test_token_by_token(given, flipped, bound):
    x, pairs, log_det = arguments(given)
    z, total = causal_affine(x, pairs, log_det, flipped=flipped, scale_bound=bound)
    expected = log_det.clone()
    for seen in range(TOKENS):
        token, pair = (TOKENS - 1 - seen if flipped else seen), seen - (TOKENS - given)
        if pair < 0:
            assert torch.equal(z[:, token], x[:, token])
            continue
        log_scale, shift = pairs[:, pair, 0], pairs[:, pair, 1]
        log_scale = log_scale if bound is None else bound * torch.tanh(log_scale / bound)
        torch.testing.assert_close(z[:, token], (x[:, token] - shift) / torch.exp(log_scale))
        expected -= log_scale.sum(1)
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("bound", [None, 0.8])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("given", [TOKENS, TOKENS - 1])
def test_gradcheck(given, flipped, bound):
    inputs = [t.requires_grad_() for t in arguments(given)]
    assert torch.autograd.gradcheck(lambda *a: causal_affine(*a, flipped=flipped, scale_bound=bound), inputs)


@pytest.mark.parametrize("bound", [None, 0.8])
@pytest.mark.parametrize("features", [1, 8, 16, 33])
def test_any_width_in_both_precisions(features, bound, instruction_set):
    """The native kernels against the reference, with gradients; one row is not finite."""
    generator = torch.Generator().manual_seed(0)
    shapes = (70, TOKENS, features), (70, TOKENS - 1, 2, features), (70,)
    exact = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    exact[0][3, 1, 0], exact[1][5, 1, 0, 0] = float("nan"), float("inf")
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        inputs, results = [t.to(dtype).requires_grad_() for t in exact], []
        for reference in (True, False):
            with use_reference(reference):
                found = causal_affine(*inputs, flipped=True, scale_bound=bound)
                results.append((*found, *torch.autograd.grad(found, inputs, [torch.ones_like(f) for f in found])))
        for expected, actual in zip(*results, strict=True):
            torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * 10, equal_nan=True)


def test_nothing_is_written():
    inputs = arguments()
    before = [t.clone() for t in inputs]
    causal_affine(*inputs)
    assert all(map(torch.equal, inputs, before))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(3, 4).double()}, ValueError, r"x: expected shape \(rows, tokens, features\), got \(3, 4\)"),
        (
            {"pairs": torch.zeros(3, 2, 2, 2).double()},
            ValueError,
            r"pairs: expected shape \(3, 4 or 3, 2, 2\), got \(3, 2, 2, 2\)",
        ),
        ({"pairs": torch.zeros(3, 4, 4).double()}, ValueError, "pairs: expected shape"),
        ({"scale_bound": 0.0}, ValueError, "scale_bound: expected None or a number > 0, got 0.0"),
        ({"log_det": torch.zeros(4).double()}, ValueError, r"log_det: expected shape \(3,\), got \(4,\)"),
        ({"pairs": torch.zeros(3, 4, 2, 2)}, TypeError, "pairs: expected torch.float64 on cpu as x, got torch.float32"),
    ],
)
def test_bad_input_names_the_argument(change, error, message):
    given = dict(zip(("x", "pairs", "log_det"), arguments(), strict=True)) | change
    with pytest.raises(error, match=message):
        causal_affine(**given)
