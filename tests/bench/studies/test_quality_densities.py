"""The known densities: each integrates to one, and its samples agree with it."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from nfkern.bench.studies.quality.densities import ON_MODE, GaussianMixture
from nfkern.bench.studies.quality.shapes import DENSITIES

pytestmark = pytest.mark.slow

PLANAR = [name for name, density in DENSITIES.items() if density.size == 2]
MIXTURES = [name for name, density in DENSITIES.items() if isinstance(density, GaussianMixture)]
# A correct sampler fails one of these tests with this probability; the seeds are fixed.
SIGNIFICANCE = 1e-3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def contexts_of(density, count=2):
    return density.contexts(count, generator(7))


def grid(context, count, half_width=1.05):
    """Midpoints of count x count squares (count^2, 2), the context for each, and a square's area."""
    edge = 2 * half_width / count
    ticks = (torch.arange(count, dtype=torch.float64) + 0.5) * edge - half_width
    points = torch.cartesian_prod(ticks, ticks)
    return points, context.expand(len(points), -1), edge**2


@pytest.mark.parametrize("name", PLANAR)
def test_planar_densities_integrate_to_one(name):
    density = DENSITIES[name]
    for context in contexts_of(density):
        points, contexts, area = grid(context, 420)
        # The edges of the board's cells run through 4 % of the grid's squares; the others are smooth.
        tolerance = 4e-3 if name == "checkerboard" else 1e-4
        assert float(density.log_prob(points, contexts).exp().sum() * area) == pytest.approx(1, abs=tolerance)


@pytest.mark.parametrize("name", PLANAR)
def test_planar_samples_agree_with_the_density(name):
    density, bins, fine, count = DENSITIES[name], 20, 24, 20_000
    for context in contexts_of(density):
        samples = density.sample(context.expand(count, -1), generator())
        points, contexts, area = grid(context, bins * fine)
        mass = (density.log_prob(points, contexts).exp() * area).reshape(bins, fine, bins, fine).sum((1, 3))
        edges = np.linspace(-1.05, 1.05, bins + 1)
        counts, _, _ = np.histogram2d(*samples.T.numpy(), bins=[edges, edges])
        expected = mass.numpy() * count
        # Sparse squares are counted as one, for chi-square wants five or more of each.
        dense = expected >= 5
        found = [*counts[dense], counts[~dense].sum()]
        wanted = np.array([*expected[dense], expected[~dense].sum()])
        if wanted[-1] < 5:
            found, wanted = found[:-1], wanted[:-1]
        pvalue = stats.chisquare(found, wanted * sum(found) / sum(wanted)).pvalue
        assert pvalue > SIGNIFICANCE, context


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_equal_scipys(name):
    density = DENSITIES[name]
    contexts = contexts_of(density, 5)
    x = density.sample(contexts, generator()) + 0.01
    _, gaussians = density.components(contexts)
    means, factors = gaussians.loc, gaussians.scale_tril
    plain = density.twist(x, contexts, -1)
    for row in range(5):
        parts = [
            weight * stats.multivariate_normal(mean, factor @ factor.T).pdf(plain[row])
            for weight, mean, factor in zip(
                density.log_weights(contexts)[row].exp(), means[row], factors[row], strict=True
            )
        ]
        assert float(density.log_prob(x, contexts)[row]) == pytest.approx(math.log(sum(parts)), abs=1e-9)


@pytest.mark.parametrize("name", MIXTURES)
def test_samples_of_mixtures_agree_along_lines(name):
    density, count = DENSITIES[name], 5000
    for seed, context in enumerate(contexts_of(density)):
        many = context.expand(count, -1)
        line = torch.randn(density.size, generator=generator(seed), dtype=torch.float64)
        along = density.twist(density.sample(many, generator(seed)), many, -1) @ line
        weights = density.log_weights(context[None])[0].exp().numpy()
        _, gaussians = density.components(context[None])
        centres = (gaussians.loc[0] @ line).numpy()
        scales = (gaussians.scale_tril[0].mT @ line).norm(dim=1).numpy()

        def distribution(values, weights=weights, centres=centres, scales=scales):
            return (weights * stats.norm.cdf(np.asarray(values)[:, None], centres, scales)).sum(1)

        assert stats.kstest(along.numpy(), distribution).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("density", DENSITIES.values(), ids=lambda density: density.name)
def test_samples_are_on_modes_in_their_shares(density):
    count = 20_000
    for context in contexts_of(density):
        many = context.expand(count, -1)
        found = density.mode_of(density.sample(many, generator()), many)
        on = 1.0 if density.name == "checkerboard" else ON_MODE
        assert float((found >= 0).double().mean()) == pytest.approx(on, abs=0.003)
        shares = torch.bincount(found[found >= 0], minlength=density.modes) / count
        torch.testing.assert_close(
            shares.double(), on * density.log_weights(context[None])[0].exp(), atol=0.012, rtol=0
        )
        if isinstance(density, GaussianMixture):
            means = density.twist(density.components(context[None])[1].loc, context[None])[0]
            assert density.mode_of(means, context.expand(density.modes, -1)).tolist() == list(range(density.modes))


@pytest.mark.parametrize("density", DENSITIES.values(), ids=lambda density: density.name)
def test_samples_lie_where_agents_may_act_and_depend_on_the_context(density):
    contexts = density.contexts(50_000, generator())
    assert contexts.abs().max() <= 1
    samples = density.sample(contexts, generator())
    assert samples.shape == (50_000, density.chunk * density.action_size)
    assert float((samples.abs() > 1).any(1).double().mean()) < 1e-4
    one, other = contexts_of(density, 2)
    x = density.sample(one.expand(200, -1), generator())
    assert not torch.allclose(density.log_prob(x, one.expand(200, -1)), density.log_prob(x, other.expand(200, -1)))
