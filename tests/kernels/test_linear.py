"""The product of rows with a weight: values, gradients, cuts into panels, and what is refused."""

import pytest
import torch
from support.coupling_problems import compare, compare_in_float64

from nfkern.kernels import linear

pytestmark = pytest.mark.usefixtures("_poisoned", "_native")


def arguments(rows=5, depth=7, outputs=9):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator).double() for size in ((rows, depth), (outputs, depth), (outputs,))]


def call(x, weight, bias, compute_dtype=None):
    return (linear(x, weight, bias),)


# The last three: rows 4 KiB apart, more outputs than are taken at a time, more weights than caches are likely to hold.
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (64, 300), (33, 17), (1024, 29), (40, 1250), (1000, 2200)], ids=str)
@pytest.mark.parametrize("rows", [1, 3, 8, 16, 19, 33, 50])
def test_values_equal_the_reference(rows, shape, instruction_set):
    given = arguments(rows, *shape)
    compare(call, given, ("result",), terms=shape[0])
    compare_in_float64(call, given, ("result",), terms=shape[0])


def test_strides_make_no_difference():
    x, weight, bias = (t.float() for t in arguments(40, 30, 50))
    apart = x.repeat(1, 2)[:, ::2], weight.mT.contiguous().mT, bias.repeat_interleave(2)[::2]
    assert torch.equal(linear(*apart), linear(*(t.contiguous() for t in apart)))


def test_threads_change_nothing_but_rounding():
    given = [t.float() for t in arguments(70, 40, 50)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            found.append(linear(*given))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[1], found[2])
    torch.testing.assert_close(found[0], found[1])


def test_gradcheck():
    inputs = [t.requires_grad_() for t in arguments()]
    assert torch.autograd.gradcheck(linear, inputs)
    assert torch.autograd.gradgradcheck(linear, inputs)
    assert torch.autograd.gradcheck(lambda weight: linear(inputs[0].detach(), weight, inputs[2].detach()), inputs[1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(7).double()}, ValueError, r"x: expected shape \(rows, in\), got \(7,\)"),
        ({"weight": torch.zeros(9, 6).double()}, ValueError, r"weight: expected shape \(out, 7\), got \(9, 6\)"),
        ({"bias": torch.zeros(7).double()}, ValueError, r"bias: expected shape \(9,\), got \(7,\)"),
        ({"bias": torch.zeros(9)}, TypeError, "bias: expected torch.float64 on cpu as x, got torch.float32"),
    ],
)
def test_bad_input_names_the_argument(change, error, message):
    with pytest.raises(error, match=message):
        linear(**(dict(zip(("x", "weight", "bias"), arguments(), strict=True)) | change))
