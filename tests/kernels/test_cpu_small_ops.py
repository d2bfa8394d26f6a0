"""PLU composition and the base density on the native CPU kernels."""

import pytest
import torch
from support import flows
from support.coupling_problems import compare, compare_in_float64

from nfkern.kernels import compose, use_reference
from nfkern.kernels import standard_normal_log_prob as base

pytestmark = pytest.mark.usefixtures("_native")


def factors(features, blocks=3):
    flow = flows.make_flow(features=features, blocks=blocks)
    return flow.mixing_lu.detach(), flow.permutation


def compose_with_gradient(inverse):
    def call(lu, permutation, grad_matrix, grad_log_det, compute_dtype=None):
        lu = lu.clone().requires_grad_()
        matrix, log_det = compose(lu, permutation, inverse)
        loss = (matrix * grad_matrix).sum() + log_det * grad_log_det
        return matrix, log_det, torch.autograd.grad(loss, lu)[0]

    return call


def base_with_gradient(z, grad, compute_dtype=None):
    z = z.clone().requires_grad_()
    log_prob = base(z)
    return log_prob, torch.autograd.grad((log_prob * grad).sum(), z)[0]


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("features", [2, 3, 5, 17, 64])
def test_compose_equals_the_reference(features, inverse):
    lu, permutation = factors(features)
    arguments = (lu, permutation, torch.randn_like(lu), torch.randn((), dtype=lu.dtype))
    call = compose_with_gradient(inverse)
    compare(call, arguments, ("matrix", "log_det", "lu"), terms=features)
    with use_reference():
        expected = call(*arguments)
    for a, e in zip(call(*arguments), expected, strict=True):
        # Sums whose terms cancel: of an orthogonal matrix, log_det is zero.
        torch.testing.assert_close(a, e, rtol=1e-10, atol=lu[..., 0].numel() * 4 * torch.finfo(lu.dtype).eps)


@pytest.mark.parametrize("compared", [compare, compare_in_float64])
@pytest.mark.parametrize("shape", [(1,), (5,), (300, 5), (2, 3, 7), (4000, 3)])
def test_base_equals_the_reference(shape, compared):
    z = torch.randn(shape, dtype=torch.float64)
    compared(base_with_gradient, (z, torch.randn_like(z[..., 0])), ("log_prob", "z"), terms=shape[-1])


def test_strides_make_no_difference():
    lu, permutation = factors(5)
    z = torch.randn(7, 6, dtype=torch.float64)
    for view, plain in ((lu.mT.contiguous().mT, lu), (lu.repeat(1, 1, 2)[..., ::2], lu[..., [0, 2, 4, 1, 3]])):
        assert torch.equal(compose(view, permutation, True)[0], compose(plain.contiguous(), permutation, True)[0])
    assert torch.equal(base(z[:, ::2]), base(z[:, ::2].contiguous()))
    # mean() gives a gradient that is one number, expanded.
    leaf = z[:, ::2].clone().requires_grad_()
    base(leaf).mean().backward()
    torch.testing.assert_close(leaf.grad, -leaf.detach() / 7)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_what_is_no_number_stays_in_its_block(value, inverse):
    """A singular or broken block spoils its own matrix and the log-determinant, as in the reference."""
    lu, permutation = factors(4)
    lu[1, 2, 2] = value
    matrix, log_det = compose(lu, permutation, inverse)
    with use_reference():
        expected, expected_log_det = compose(lu, permutation, inverse)
    for block in (0, 2):
        torch.testing.assert_close(matrix[block], expected[block])
    assert torch.isfinite(matrix[1]).all() == torch.isfinite(expected[1]).all()
    torch.testing.assert_close(log_det, expected_log_det, equal_nan=True)


def test_without_rows_the_reference_runs():
    assert base(torch.zeros(0, 5)).shape == (0,)
    assert base(torch.zeros(3, 0)).shape == (3,)


def test_kernels_check_what_they_index_with():
    lu, permutation = factors(4)
    with pytest.raises(ValueError, match="permutation: expected indices from 0 to 3"):
        compose(lu, permutation + 1)
    with pytest.raises(TypeError, match="permutation: expected torch.int64"):
        compose(lu, permutation.int())
    with pytest.raises(TypeError, match="grad: expected torch.float64 on cpu as z, got torch.float32 on cpu"):
        torch.ops.nfkern.standard_normal_log_prob_backward(torch.ones(3), torch.ones(3, 2, dtype=torch.float64))
    with pytest.raises(TypeError, match="grad_matrix: expected torch.float64 on cpu as lu, got torch.float32 on cpu"):
        torch.ops.nfkern.plu_compose_backward(lu.float(), torch.ones(()), lu, permutation, False)
