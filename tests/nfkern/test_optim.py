"""FlowAdamW against torch.optim.AdamW: the same numbers in every way to take gradients."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.optimizers import OPTIONS, STEPS, loss_of, ours, theirs, trained

from nfkern.optim import FlowAdamW

ROOT = Path(__file__).parents[2]


def test_parameters_in_the_place_of_the_flow_are_refused():
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match="flow: expected a torch.nn.Module, whose .*, got a generator"):
        FlowAdamW(layer.parameters())


def backward(flow, encoder, optimizer, step):
    optimizer.zero_grad()
    loss_of(flow, encoder, step).backward()


def plain(flow, encoder, optimizer, step):
    backward(flow, encoder, optimizer, step)
    optimizer.step()


def clipping(flow, encoder, optimizer, step):
    backward(flow, encoder, optimizer, step)
    norm = torch.nn.utils.clip_grad_norm_([*flow.parameters(), *encoder.parameters()], 0.1)
    assert norm > 0.1
    optimizer.step()


def clipping_values(flow, encoder, optimizer, step):
    backward(flow, encoder, optimizer, step)
    torch.nn.utils.clip_grad_value_(flow.parameters(), 1e-3)
    optimizer.step()


def accumulating_and_dividing(flow, encoder, optimizer, step):
    flow.zero_grad()
    optimizer.zero_grad()
    for rows in (slice(0, 4), slice(4, None)):
        loss_of(flow, encoder, step, rows).backward()
    for parameter in flow.parameters():
        if parameter.grad is not None:
            parameter.grad /= 2
    optimizer.step()


def zeroing_the_flow_only(flow, encoder, optimizer, step):
    flow.zero_grad()
    loss_of(flow, encoder, step).backward()
    optimizer.step()


def computing_more_gradients(flow, encoder, optimizer, step):
    """Gradients that are looked at, and belong to no step."""
    backward(flow, encoder, optimizer, step)
    torch.autograd.grad(loss_of(flow, encoder, step + 100), list(flow.parameters()), allow_unused=True)
    weights = {name: p.detach().clone().requires_grad_() for name, p in flow.named_parameters()}
    x, context = torch.randn(3, flow.features, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    torch.func.functional_call(flow, weights, (x, context)).sum().backward()
    optimizer.step()


def some_inputs_only(flow, encoder, optimizer, step):
    optimizer.zero_grad()
    loss_of(flow, encoder, step).backward(inputs=[flow.output_bias, *encoder.parameters()])
    optimizer.step()


def copying_between(flow, encoder, optimizer, step):
    backward(flow, encoder, optimizer, step)
    twin = copy.deepcopy(flow)
    loss_of(twin, encoder, step).backward(inputs=list(twin.parameters()))
    optimizer.step()


def leaving_a_step_out(flow, encoder, optimizer, step):
    backward(flow, encoder, optimizer, step)
    if step % 2:
        optimizer.step()


def stepping_twice(flow, encoder, optimizer, step):
    plain(flow, encoder, optimizer, step)
    optimizer.step()


def stepping_with_a_closure(flow, encoder, optimizer, step):
    def closure():
        backward(flow, encoder, optimizer, step)
        return loss_of(flow, encoder, step)

    assert optimizer.step(closure).isfinite()


def sampling(flow, encoder, optimizer, step):
    optimizer.zero_grad()
    noise = torch.randn(8, flow.features, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    sample, log_prob = flow.rsample_and_log_prob((), encoder(torch.ones(8, 5, dtype=torch.float64)), noise=noise)
    (sample.square().mean() + log_prob.mean()).backward()
    optimizer.step()


def restoring_the_state(flow, encoder, optimizer, step):
    plain(flow, encoder, optimizer, step)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


LOOPS = [
    plain,
    clipping,
    clipping_values,
    accumulating_and_dividing,
    zeroing_the_flow_only,
    computing_more_gradients,
    some_inputs_only,
    copying_between,
    leaving_a_step_out,
    stepping_twice,
    stepping_with_a_closure,
    sampling,
    restoring_the_state,
]


def assert_same(actual, expected):
    for key, value in expected.items():
        # Adam divides by the gradient's size, so rounding of 1e-16 in gradients that cancel to 1e-9 shows as 1e-7.
        torch.testing.assert_close(actual[key], value, rtol=1e-7, atol=1e-8, msg=key)


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_equals_torchs_adamw(loop):
    assert_same(trained(ours, loop), trained(theirs, loop))


@pytest.mark.parametrize("name", ["inverted", "unequal_hidden", "scale_bound"])
def test_equals_torchs_adamw_for_every_flow(name):
    assert_same(trained(ours, clipping, name=name), trained(theirs, clipping, name=name))


def hook(flow, optimizer):
    flow.hidden_weight.register_hook(lambda grad: grad * 0.5)

    def clamp(parameter):
        parameter.grad.clamp_(-1e-3, 1e-3)

    flow.norm1_weight.register_post_accumulate_grad_hook(clamp)


def freeze(flow, optimizer):
    flow.hidden_weight.requires_grad_(False)
    flow.norm1_weight.requires_grad_(False)


def schedule(flow, optimizer):
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    optimizer.register_step_post_hook(lambda *_: scheduler.step())


@pytest.mark.parametrize("prepare", [hook, freeze, schedule])
def test_hooks_and_schedules_see_the_gradients(prepare):
    assert_same(trained(ours, plain, prepare), trained(theirs, plain, prepare))


def test_the_learning_rate_may_be_a_tensor():
    results = [
        trained(lambda flow, others, lr=lr: FlowAdamW(flow, others, **OPTIONS | {"lr": lr}), plain)
        for lr in (0.01, torch.tensor(0.01, dtype=torch.float64))
    ]
    assert_same(*results)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    script = [sys.executable, "-m", "support.optimizers"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    ranks = [subprocess.Popen([*script, str(rank), str(tmp_path)], env=environment) for rank in range(2)]
    assert [process.wait(timeout=60) for process in ranks] == [0, 0]
    expected = trained(theirs, plain)
    for rank in range(2):
        assert_same(torch.load(tmp_path / f"{rank}.pt"), expected)
