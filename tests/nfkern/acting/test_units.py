"""Frozen flows that act in a robot's units, and the memory that they lie in."""

import copy
import io
import mmap

import numpy as np
import pytest
import torch
from support import flows

from nfkern import CouplingFlow, Encoder
from nfkern.acting.memory import HUGE_PAGE, place_together
from nfkern.acting.units import Units
from nfkern.kernels import use_reference

OBSERVED, ACTED = 7, 6


def make(dtype=torch.float32, name="paper"):
    flow = flows.make_flow(name, torch.float32)
    torch.manual_seed(1)
    return flow.freeze(dtype, Encoder(OBSERVED, flow.context_features, width=24, layers=2))


def some_units():
    rng = np.random.default_rng(0)
    center, scale = rng.normal(size=OBSERVED) * 10, rng.random(OBSERVED) + 0.5
    return Units(
        center, scale, rng.normal(size=ACTED), rng.random(ACTED) + 0.5, np.full(ACTED, -1), np.full(ACTED, 1.5)
    )


def observations(*batch):
    return 10 * np.random.default_rng(1).normal(size=(*batch, OBSERVED)).astype(np.float32)


@pytest.mark.parametrize("sigma", [0.0, 0.1])
@pytest.mark.parametrize("batch", [(), (1,), (4, 3)])
def test_one_call_in_the_robots_units_is_three_in_the_flows(batch, sigma):
    frozen, units, seen = make(), some_units(), observations(*batch)

    def draw():
        return torch.Generator().manual_seed(3)

    expected = units.actions(frozen.act(units.normalized(seen), sigma, generator=draw()))
    found = frozen.act(seen, sigma, generator=draw(), units=units)
    assert found.shape == (*batch, ACTED)
    np.testing.assert_array_equal(found, expected)
    assert (found == np.float32(1.5)).any() or (found == -1).any() or not batch
    with use_reference():
        np.testing.assert_allclose(frozen.act(seen, sigma, generator=draw(), units=units), found, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        frozen.act(seen.astype(np.float64), sigma, generator=draw(), units=units), found, rtol=1e-4, atol=1e-4
    )


def test_few_and_many_numbers_are_drawn_as_pytorch_draws_them():
    """Up to 15 numbers one by one, from 16 on by another rule; odd counts leave one for later."""
    for features in (2, 3, 5, 15, 16, 17):
        frozen = CouplingFlow(features, OBSERVED, blocks=1, hidden=(8, 8)).freeze()
        for rows in (1, 2, 3):
            seen = observations(rows)
            ours, theirs = (torch.Generator().manual_seed(5) for _ in range(2))
            for _ in range(3):
                expected = frozen.sample((), torch.from_numpy(seen), generator=theirs, temperature=0.5).numpy()
                np.testing.assert_array_equal(frozen.act(seen, temperature=0.5, generator=ours), expected)
            assert torch.equal(ours.get_state(), theirs.get_state())


def test_arguments_of_other_kinds():
    """What the call in C does not take as it is gives the same action all the same."""
    frozen, seen = make(), observations(3)

    def act(seen=seen, sigma=1.0, **options):
        return frozen.act(seen, sigma, generator=torch.Generator().manual_seed(3), **options)

    expected = act()
    wider = np.zeros((3, 2 * OBSERVED), np.float32)
    wider[:, ::2] = seen
    for found in (
        act(sigma=1),
        act(sigma=np.float64(1)),
        act(sigma=torch.tensor(1.0)),
        act(temperature=True),
        act(wider[:, ::2]),
        act(np.asfortranarray(seen)),
        act(seen.view(np.recarray)),
        act(seen.astype(">f4")),
    ):
        np.testing.assert_array_equal(found, expected)


def test_bad_units_are_refused():
    with pytest.raises(ValueError, match=r"units: expected arrays of shapes \[\(7,\), \(7,\), \(6,\)"):
        Units(*(np.zeros(size) for size in (7, 8, 6, 6, 6, 6)))
    units, frozen = some_units(), make()
    with pytest.raises(ValueError, match=r"observations: expected shape \(\.\.\., 7\), got \(2, 6\)"):
        frozen.act(np.zeros((2, 6), np.float32), units=units)
    other = Units(*(np.ones(size) for size in (7, 7, 5, 5, 5, 5)))
    with pytest.raises(ValueError, match=r"units: expected those of actions \(1, 6\), got 5 numbers"):
        frozen.act(observations(1), units=other)
    for bad in (float("nan"), float("inf")):
        seen = observations(3)
        seen[1, 2] = bad
        with pytest.raises(ValueError, match=r"observations: expected finite numbers, got .* at index \[1, 2\]"):
            frozen.act(seen, units=units)


def test_errors_of_the_call_in_c_are_python_errors():
    frozen = make()
    frozen.act(observations(1))
    for arguments in ((), (frozen,) * 5):
        with pytest.raises(TypeError, match=f"act: expected 6 arguments, got {len(arguments)}"):
            frozen._native.act(*arguments)
    if torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="generator"):
            frozen.act(observations(1), generator=torch.Generator("cuda"))


large = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="the system has no huge pages")


@large
def test_a_large_frozen_flow_lies_in_one_block():
    flow = CouplingFlow(5, 64)
    frozen = flow.freeze(encoder=Encoder(58, 64))
    tensors = [*frozen.buffers(), *frozen.parameters()]
    starts = sorted(tensor.data_ptr() for tensor in tensors)
    size = sum(tensor.nbytes for tensor in tensors)
    assert starts[0] % HUGE_PAGE == 0
    assert starts[-1] - starts[0] < size + 64 * len(tensors)
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
    # Nothing of it is shared with a copy, or with the flow.
    seen, before = observations(2)[:, :1].repeat(58, 1), frozen.hidden_weight.clone()
    buffer = io.BytesIO()
    torch.save(frozen, buffer)
    assert buffer.tell() < size + 2**17
    buffer.seek(0)
    for other in (copy.deepcopy(frozen), torch.load(buffer, weights_only=False)):
        draws = [each.act(seen, generator=torch.Generator().manual_seed(0)) for each in (frozen, other)]
        np.testing.assert_array_equal(*draws)
        other.hidden_weight.zero_()
        assert torch.equal(frozen.hidden_weight, before)
    state = {name: 2 * tensor for name, tensor in frozen.state_dict().items()}
    frozen.load_state_dict(state)
    assert torch.equal(frozen.hidden_weight, 2 * before)


@large
def test_placing_keeps_shapes_dtypes_and_numbers():
    tensors = [
        torch.randn(1000, 300),
        torch.randn(3),
        torch.randn(77, 5).bfloat16(),
        torch.tensor(2.5),
        torch.zeros(0, 4),
    ]
    wanted = [tensor.clone() for tensor in tensors]
    place_together(tensors)
    for tensor, expected in zip(tensors, wanted, strict=True):
        assert torch.equal(tensor, expected)
        assert tensor.is_contiguous()
        assert tensor.data_ptr() % 64 == 0


@large
def test_a_kernel_without_huge_pages_leaves_all_as_it_is(monkeypatch):
    class Refusing(mmap.mmap):
        def madvise(self, *arguments):
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Refusing)
    flow = CouplingFlow(5, 64)
    frozen, seen = flow.freeze(), np.ones((1, 64), np.float32)
    assert frozen.act(seen).shape == (1, 5)
    assert len({each.untyped_storage().data_ptr() for each in frozen.buffers()}) > 1


@large
def test_views_and_other_layouts_stay_where_they_are():
    whole = torch.randn(1000, 600)
    tensors = [whole[:500], torch.randn(400, 700).T, torch.randn(1000, 500)]
    before = [tensor.data_ptr() for tensor in tensors]
    place_together(tensors)
    assert [tensor.data_ptr() == start for tensor, start in zip(tensors, before, strict=True)] == [True, True, False]


def test_small_tensors_stay_where_they_are():
    tensors = [torch.randn(100, 300), torch.randn(3)]
    before = [tensor.data_ptr() for tensor in tensors]
    place_together(tensors)
    assert [tensor.data_ptr() for tensor in tensors] == before
