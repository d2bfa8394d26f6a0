"""The networks of the baselines."""

import math

import pytest
import torch

from nfkern.algorithms.agents.networks import EnsembleMLP, frozen_call, mlp, sinusoidal_embedding


@pytest.mark.parametrize("out_features", [None, 1, 7])
def test_an_ensemble_is_its_members_side_by_side(out_features):
    torch.manual_seed(0)
    ensemble, inputs = EnsembleMLP(3, 5, (8, 6), out_features), torch.randn(4, 5, requires_grad=True)
    for scale, shift in zip(ensemble.scales, ensemble.shifts, strict=True):
        torch.nn.init.normal_(scale)
        torch.nn.init.normal_(shift)
    values = ensemble(inputs)
    assert values.shape == ((3, 4) if out_features is None else (3, 4, out_features))
    for member in range(3):
        x = inputs
        for layer in range(3):
            x = x @ ensemble.weights[layer][member] + ensemble.biases[layer][member]
            if layer < 2:
                x = torch.nn.functional.gelu(x, approximate="tanh")
                x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
                x = x * ensemble.scales[layer][member] + ensemble.shifts[layer][member]
        torch.testing.assert_close(values[member], x[:, 0] if out_features is None else x)
    ensemble(inputs, frozen=True).sum().backward()
    assert all(parameter.grad is None for parameter in ensemble.parameters())
    assert inputs.grad.abs().max() > 0


def test_a_frozen_call_lets_gradients_reach_the_arguments_alone():
    torch.manual_seed(0)
    network, inputs = mlp(3, 2, (4,), layer_norm=True), torch.randn(5, 3, requires_grad=True)
    torch.testing.assert_close(frozen_call(network, inputs), network(inputs))
    frozen_call(network, inputs).sum().backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    assert inputs.grad.abs().max() > 0


def test_members_differ_from_the_start():
    values = EnsembleMLP(2, 5, (8, 6))(torch.randn(4, 5))
    assert (values[0] - values[1]).abs().min() > 1e-3


def test_an_embedding_is_sines_and_cosines_of_many_rates():
    embedded = sinusoidal_embedding(torch.tensor([0, 7]), 8)
    angles = [7 / 10_000 ** (i / 3) for i in range(4)]
    expected = [[0.0] * 4 + [1.0] * 4, [*map(math.sin, angles), *map(math.cos, angles)]]
    torch.testing.assert_close(embedded, torch.tensor(expected))
