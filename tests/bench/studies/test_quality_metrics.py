"""The metrics against formulas that share nothing with them."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import wasserstein_distance

from nfkern.bench.studies.quality import metrics
from nfkern.bench.studies.quality.report import DEFAULT
from nfkern.bench.studies.quality.shapes import DENSITIES


def normal(rows, columns, seed, **changes):
    found = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return changes.get("scale", 1.0) * found + changes.get("shift", 0.0)


@pytest.mark.parametrize("columns", [2, 8])
def test_sliced_wasserstein_is_scipys_on_every_line(columns):
    x, y = normal(60, columns, 0), normal(60, columns, 1, scale=0.5, shift=0.3)
    lines = metrics.directions(columns)
    expected = [wasserstein_distance(x @ line, y @ line) for line in lines]
    assert metrics.sliced_wasserstein(x, y) == pytest.approx(sum(expected) / len(expected))


@pytest.mark.parametrize("columns", [2, 8])
def test_lines_are_unit_vectors_all_around(columns):
    lines = metrics.directions(columns, 512)
    torch.testing.assert_close(lines.norm(dim=1), torch.ones(512, dtype=torch.float64))
    torch.testing.assert_close(
        lines.T @ lines / 512, torch.eye(columns, dtype=torch.float64) / columns, atol=0.03, rtol=0
    )


def test_mmd_is_the_naive_double_loop():
    x, y = normal(12, 3, 0, scale=0.3), normal(12, 3, 1, scale=0.2, shift=0.1)

    def kernel(a, b):
        squared = sum((p - q) ** 2 for p, q in zip(a.tolist(), b.tolist(), strict=True))
        return sum(math.exp(-squared / (2 * h * h)) for h in metrics.BANDWIDTHS) / len(metrics.BANDWIDTHS)

    def mean(a, b):
        return sum(kernel(p, q) for p in a for q in b) / (len(a) * len(b))

    assert metrics.mmd(x, y) == pytest.approx(math.sqrt(mean(x, x) - 2 * mean(x, y) + mean(y, y)))


@pytest.mark.parametrize("metric", [metrics.sliced_wasserstein, metrics.mmd])
def test_distances_name_both_shapes(metric):
    with pytest.raises(ValueError, match=r"got \(5, 2\) and \(6, 2\)"):
        metric(torch.zeros(5, 2), torch.zeros(6, 2))


def test_mode_shares_count_modes_with_half_their_due_and_samples_on_none():
    density = DENSITIES["gaussians_25"]
    context = torch.zeros(2, dtype=torch.float64)
    modes = density.components(context[None])[1].loc[0]
    # 20 samples due to each of 25: all, just enough, just too few, none; and the rest lies between modes.
    between = (modes[0] + modes[1]) / 2
    sample = torch.cat([modes[:20].repeat(20, 1), modes[20:22].repeat(11, 1), modes[22:23].repeat(9, 1)])
    sample = torch.cat([sample, between.expand(500 - len(sample), -1)])
    assert metrics.mode_shares(density, sample, context) == (22 / 25, 69 / 500)


def test_modes_that_are_due_too_few_samples_are_not_judged():
    density = DENSITIES["gaussians_25"]
    context = torch.tensor([0.0, 1.0], dtype=torch.float64)
    rare = density.log_weights(context[None])[0].exp() * 500 < metrics.LEAST_DUE
    assert 0 < rare.sum() < 25
    common = density.components(context[None])[1].loc[0][~rare].repeat(50, 1)[:500]
    assert metrics.mode_shares(density, common, context)[0] == 1
    with pytest.raises(ValueError, match="enough samples for some mode"):
        metrics.mode_shares(density, common[:20], context)


def test_the_density_itself_scores_as_well_as_can_be_and_a_wrong_one_worse():
    density, settings = DENSITIES["gaussians_25"], replace(DEFAULT, contexts=2)
    known, generator = metrics.held_out(density, settings), torch.Generator().manual_seed(1)
    best = metrics.score(density, known, lambda contexts: density.sample(contexts, generator), density.log_prob)
    turned = metrics.score(density, known, lambda contexts: density.sample(contexts.flip(1), generator))
    assert (best.covered, turned.nll) == (1.0, None)
    assert best.off_modes < 0.02 < turned.off_modes
    assert best.sliced_wasserstein < 0.5 * turned.sliced_wasserstein
    assert best.mmd < 0.5 * turned.mmd
    assert best.nll == pytest.approx(-float(density.log_prob(known.pairs, known.pair_contexts).mean()))
    with pytest.raises(ValueError, match="actions: expected finite numbers"):
        metrics.score(density, known, lambda contexts: contexts * math.nan)
    with pytest.raises(ValueError, match="log-density: expected a finite mean, got inf"):
        metrics.score(density, known, lambda contexts: contexts, lambda x, contexts: x[:, 0] + math.inf)
