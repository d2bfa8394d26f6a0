import numpy as np
import pytest

from nfkern.algorithms.evaluation.statistics import (
    cluster_interval,
    interquartile_mean,
    paired_comparison,
    success_interval,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"got {successes} of {trials}"):
        wilson_interval(successes, trials)


def clustered_outcomes(rng: np.random.Generator, seeds: int, goals: int, episodes: int) -> np.ndarray:
    """Successes whose log-odds vary strongly between goals, less between seeds: nearly all-or-nothing cells."""
    log_odds = rng.normal(0, 3, (1, goals)) + rng.normal(0, 0.7, (seeds, 1)) + rng.normal(0, 0.7, (seeds, goals))
    return rng.random((seeds, goals, episodes)) < (1 / (1 + np.exp(-log_odds)))[..., None]


@pytest.mark.parametrize("goals", [5, 10])
def test_clustered_data_are_covered_by_the_bootstrap_and_not_by_wilson(goals: int) -> None:
    rng = np.random.default_rng(0)
    bootstrap = wilson = 0
    for _ in range(200):
        outcomes = clustered_outcomes(rng, 3, goals, 50)
        # By symmetry the population's mean is a half.
        low, high = cluster_interval(outcomes, resamples=1000)
        bootstrap += low <= 0.5 <= high
        low, high = wilson_interval(int(outcomes.sum()), outcomes.size)
        wilson += low <= 0.5 <= high
    # 200 trials at 95% stay above 0.90 with probability 0.999.
    assert bootstrap / 200 >= 0.90
    assert wilson / 200 <= 0.40


def test_the_cluster_interval_is_repeatable_and_equivariant() -> None:
    outcomes = clustered_outcomes(np.random.default_rng(1), 3, 5, 10)
    low, high = cluster_interval(outcomes)
    assert cluster_interval(outcomes) == (low, high)
    assert low < outcomes.mean() < high
    assert cluster_interval(2.0 * outcomes - 1) == pytest.approx((2 * low - 1, 2 * high - 1))
    narrow = cluster_interval(outcomes, confidence=0.5)
    assert low < narrow.low < narrow.high < high


def test_two_clusters_leave_everything_open() -> None:
    assert cluster_interval(np.array([[0.0, 0.0], [1.0, 1.0]])) == (0.0, 1.0)


def test_one_seed_and_seeds_of_one_goal() -> None:
    outcomes = np.array([[1, 1], [1, 0], [0, 0], [1, 1], [0, 1]])
    assert cluster_interval(outcomes) == cluster_interval(outcomes[None])
    low, high = cluster_interval(outcomes[:, None, :])
    assert 0 <= low < outcomes.mean() < high <= 1


@pytest.mark.parametrize("shape", [(3,), (0, 5), (1, 1, 50), (2, 2, 2, 2)])
def test_the_cluster_interval_refuses_what_it_cannot_resample(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="outcomes: "):
        cluster_interval(np.ones(shape))


def test_agreement_is_not_certainty() -> None:
    nothing = np.zeros((3, 5, 50))
    assert cluster_interval(nothing) == (0.0, 0.0)
    assert success_interval(nothing) == wilson_interval(0, 5)
    assert success_interval(1 - nothing) == wilson_interval(5, 5)
    one_goal = np.array([[True, False, True, True]])
    assert success_interval(one_goal) == wilson_interval(3, 4)
    mixed = clustered_outcomes(np.random.default_rng(4), 3, 5, 10)
    assert success_interval(mixed) == cluster_interval(mixed)
    with pytest.raises(ValueError, match="0 or 1"):
        success_interval(np.full((5, 10), 0.5))


def test_mcnemar_is_exact() -> None:
    first, second = np.zeros((5, 10)), np.zeros((5, 10))
    first.flat[:12] = 1
    second.flat[10:14] = 1
    comparison = paired_comparison(first, second)
    assert (comparison.first_only, comparison.second_only) == (10, 2)
    # 2 (1 + 12 + 66) / 2^12
    assert comparison.p_value == pytest.approx(79 / 2048)
    assert comparison.difference == pytest.approx(8 / 50)


def test_pairing_removes_what_the_policies_share() -> None:
    rng = np.random.default_rng(2)
    first = clustered_outcomes(rng, 1, 5, 50)
    second = first & (rng.random(first.shape) < 0.8)
    comparison = paired_comparison(first, second)
    low, high = comparison.interval
    assert 0 <= low < comparison.difference < high
    alone = cluster_interval(first)
    assert high - low < 0.5 * (alone.high - alone.low)
    mirrored = paired_comparison(second, first)
    assert mirrored.difference == -comparison.difference
    assert mirrored.interval == pytest.approx((-high, -low), abs=0.02)


def test_a_policy_does_not_differ_from_itself() -> None:
    outcomes = clustered_outcomes(np.random.default_rng(3), 2, 5, 10)
    comparison = paired_comparison(outcomes, outcomes)
    assert (comparison.difference, comparison.interval, comparison.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match=r"\(5, 10\), got \(5, 9\)"):
        paired_comparison(np.ones((5, 10)), np.ones((5, 9)))
    with pytest.raises(ValueError, match="0 or 1"):
        paired_comparison(np.full((5, 10), 0.5), np.ones((5, 10)))


def test_interquartile_mean_drops_the_outer_quarters() -> None:
    assert interquartile_mean(np.array([[100.0, 3, 4, 5], [6, -50, 200, -7]])) == 4.5
    with pytest.raises(ValueError, match="scores"):
        interquartile_mean(np.array([]))


def test_success_intervals_are_not_overconfident_near_the_ends():
    """Most goals near 1, a rare one near 0: where the goals seen agree, another one may not."""
    rng = np.random.default_rng(0)
    for seeds in (1, 3):
        covered = 0
        for _ in range(60):
            rates = np.where(rng.random(5) < 1 / 8, 0.2, 0.98)
            outcomes = rng.random((seeds, 5, 50)) < rates[:, None]
            low, high = success_interval(outcomes)
            covered += low <= 0.98 * 7 / 8 + 0.2 / 8 <= high
        assert covered >= 0.88 * 60
    all_but_one = np.ones((5, 50))
    all_but_one[0, 0] = 0
    assert success_interval(all_but_one).low == pytest.approx(success_interval(np.ones((5, 50))).low, abs=0.05)


def test_a_paired_order_needs_interval_and_test_to_agree():
    first, second = np.zeros((1, 5, 21)), np.zeros((1, 5, 21))
    first[:, :, :11], second[:, :, 11:] = 1, 1
    result = paired_comparison(first, second)
    assert result.interval.low > 0
    assert result.p_value > 0.5
    assert not result.decided
    clear = paired_comparison(np.ones((1, 5, 20)), np.zeros((1, 5, 20)))
    assert clear.decided


def test_one_goal_and_one_seed_can_be_compared():
    rng = np.random.default_rng(0)
    result = paired_comparison(rng.random((1, 1, 50)) < 0.8, rng.random((1, 1, 50)) < 0.3)
    assert result.interval.low > 0
    assert result.decided
