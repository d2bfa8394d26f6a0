"""Nothing that is kept between calls may ever be stale, whatever changes the parameters."""

import copy
import io
import threading

import pytest
import torch
from support import flows, naive


def edit_in_place(flow):
    with torch.no_grad():
        flow.mixing_lu.add_(0.1)


def edit_data(flow):
    flow.mixing_lu.data.mul_(1.1)


def optimiser_step(flow):
    optimiser = torch.optim.SGD(flow.parameters(), lr=1e-3)
    x, context = flows.make_inputs(flow, 8)
    flow(x, context).mean().backward()
    optimiser.step()


def polyak(flow):
    other = flows.make_flow(seed=9)
    for mine, theirs in zip(flow.parameters(), other.parameters(), strict=True):
        mine.data.lerp_(theirs.data, 0.3)


def load(flow):
    flow.load_state_dict(flows.make_flow(seed=9).state_dict())


def replace(flow):
    flow.mixing_lu = torch.nn.Parameter(flow.mixing_lu.detach() * 1.2)


def swap_permutation(flow):
    load(flow)
    flow.permutation.copy_(flow.permutation.flip(0))


CHANGES = [edit_in_place, edit_data, optimiser_step, polyak, load, replace, swap_permutation]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_composed_matrices_follow_the_parameters(change):
    flow = flows.make_flow().eval()
    x, context = flows.make_inputs(flow, 4)
    with torch.no_grad():
        flow(x, context), flow.to_data(x, context)
    change(flow)
    with torch.no_grad():
        torch.testing.assert_close(flow(x, context), naive.log_prob(flow, x, context))
        torch.testing.assert_close(flow.to_data(x, context)[0], naive.to_data(flow, x, context)[0])


def test_a_changed_permutation_alone_is_noticed():
    flow = flows.make_flow().eval()
    x, context = flows.make_inputs(flow, 4)
    with torch.no_grad():
        flow(x, context)
        flow.permutation.copy_(flow.permutation.flip(0))
        torch.testing.assert_close(flow(x, context), naive.log_prob(flow, x, context))


def test_dtype_moves_and_copies():
    flow = flows.make_flow("paper", torch.float32).eval()
    x, context = flows.make_inputs(flow, 4)
    with torch.no_grad():
        single = flow(x, context)
        double = flow.double()(x.double(), context.double())
        torch.testing.assert_close(double, naive.log_prob(flow, x.double(), context.double()))
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)
        twin = copy.deepcopy(flow)
        edit_in_place(twin)
        torch.testing.assert_close(
            twin(x.double(), context.double()), naive.log_prob(twin, x.double(), context.double())
        )
        assert torch.equal(flow(x.double(), context.double()), double)


def test_state_dict_roundtrip_through_torch_save():
    flow, other = flows.make_flow(), flows.make_flow(seed=3)
    buffer = io.BytesIO()
    torch.save(flow.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    x, context = flows.make_inputs(flow, 4)
    assert torch.equal(flow(x, context), other(x, context))


def test_a_cache_filled_in_inference_mode_serves_autograd():
    flow = flows.make_flow().eval()
    x, context = flows.make_inputs(flow, 4)
    flow.mixing_lu.requires_grad_(False)
    with torch.inference_mode():
        flow(x, context)
    x.requires_grad_()
    flow(x, context).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_functional_call_uses_the_given_parameters():
    flow, other = flows.make_flow().eval(), flows.make_flow(seed=5).eval()
    x, context = flows.make_inputs(flow, 4)
    with torch.no_grad():
        flow(x, context)
        state = dict(other.named_parameters()) | dict(other.named_buffers())
        actual = torch.func.functional_call(flow, {k: v.detach() for k, v in state.items()}, (x, context))
        torch.testing.assert_close(actual, other(x, context))


def test_several_flows_on_several_threads():
    built = [flows.make_flow(seed=i).eval() for i in range(3)]
    x, context = flows.make_inputs(built[0], 4)
    with torch.no_grad():
        expected = [naive.log_prob(flow, x, context) for flow in built]
    wrong = []

    def work(offset):
        with torch.no_grad():
            for i in range(30):
                which = (i + offset) % 3
                if not torch.allclose(built[which](x, context), expected[which]):
                    wrong.append(which)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_large_learning_rate_keeps_density_and_samples_consistent():
    flow = flows.make_flow()
    optimiser = torch.optim.AdamW(flow.parameters(), lr=1e-2)
    x, context = flows.make_inputs(flow, 64)
    losses = []
    for _ in range(30):
        loss = -flow(x, context).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        with torch.no_grad():
            sample, log_prob = flow.rsample_and_log_prob((), context)
            torch.testing.assert_close(flow.log_prob(sample, context), log_prob, rtol=1e-6, atol=1e-6)
    assert losses[-1] < losses[0] - 1
