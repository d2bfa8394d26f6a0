"""Intervals and comparisons for success rates, and what each of them covers.

Success in a goal-conditioned benchmark has three layers: training seeds, goals, and episodes. Within one goal the
outcomes are nearly all-or-nothing, so 250 episodes on 5 goals carry little more information than 5 numbers.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.stats


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedComparison:
    """Two policies on the same starts and goals.

    Attributes:
        difference: mean outcome of the first minus that of the second.
        interval: cluster bootstrap of the difference, as `cluster_interval`.
        first_only: episodes where only the first succeeded.
        second_only: episodes where only the second succeeded.
        p_value: exact McNemar test, two-sided, of "both are equally likely to be the one that succeeds".
    """

    difference: float
    interval: Interval
    first_only: int
    second_only: int
    p_value: float

    @property
    def decided(self) -> bool:
        """Return whether interval and test agree that the two differ; the interval has no width if all goals agree."""
        return self.p_value < 0.05 and not self.interval.low <= 0 <= self.interval.high


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a success rate.

    Honest for independent episodes of one goal and one policy: it says how well that goal's rate is known. Far too
    narrow for episodes pooled over goals or training seeds, which are not independent: use `cluster_interval` there.

    Args:
        successes: number of successes, 0 to `trials`.
        trials: number of episodes, at least 1.
        confidence: coverage, in (0, 1).

    Returns:
        The interval, within [0, 1].

    Raises:
        ValueError: counts that cannot be.

    References:
        Probable Inference, the Law of Succession, and Statistical Inference. Wilson, 1927.
        https://doi.org/10.1080/01621459.1927.10502953
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"successes: expected 0 to trials, with trials >= 1, got {successes} of {trials}")
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def success_interval(outcomes: np.ndarray, *, confidence: float = 0.95) -> Interval:
    """Interval of a success rate over goals and training seeds: `cluster_interval`, but never overconfident.

    Where the goals seen happen to agree, the bootstrap knows nothing of goals that would not. So the interval is never
    narrower than Wilson's with each goal (or each seed, if these are more) as one trial at the observed rate: five
    goals that all fail leave 0 to 43%. That is honest where episodes of one goal end alike, as they nearly do in
    mazes, and too wide where every goal succeeds half of the time. A single seed on a single goal gets Wilson's
    interval over its episodes.

    Args:
        outcomes: (seeds, goals, episodes) or (goals, episodes), booleans or 0 and 1.
        confidence: coverage, in (0, 1).

    Returns:
        The interval, within [0, 1].

    Raises:
        ValueError: another number of axes, an empty one, or outcomes other than 0 and 1.
    """
    values = _cells(outcomes, "outcomes")
    if not np.isin(values, [0, 1]).all():
        raise ValueError("outcomes: expected successes, 0 or 1")
    seeds, goals, episodes = values.shape
    if seeds == goals == 1:
        return wilson_interval(int(values.sum()), episodes, confidence)
    bootstrap = cluster_interval(values, confidence=confidence)
    wilson = _wilson(float(values.mean()), max(seeds, goals), confidence)
    return Interval(min(bootstrap.low, wilson.low), max(bootstrap.high, wilson.high))


def cluster_interval(
    outcomes: np.ndarray, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    r"""Bootstrap interval of the mean outcome that resamples whole training seeds and whole goals.

    The two-way ("pigeonhole") bootstrap: seeds and goals are drawn with replacement, independently of each other, and
    a cell of the table counts as often as its seed times its goal. Episodes are not resampled within a cell; their
    noise is in the cell means already. The percentiles are then spread to
    :math:`\Phi(\sqrt{n/(n-1)}\, t_{n-1,\alpha/2})`, `n` being the number of goals (of seeds where there is one goal),
    because a plain percentile interval over five clusters is a quarter too narrow.

    It answers: what would the mean be for other goals of this kind and other training seeds? On synthetic data with
    nearly all-or-nothing goals, 95% intervals covered the truth in 90-99% of trials for 3 seeds or more and 5 goals or
    more (plain percentiles: 82-94%; Wilson over all episodes: 10-28%). Too narrow where there is one training seed
    (77-91%): nothing is known about the spread between seeds, and the interval is about this one trained policy. Too
    narrow also when all goals happen to agree: at 0 or 1 everywhere it has no width. Too wide for the question how
    well the mean over just these goals is known.

    Args:
        outcomes: (seeds, goals, episodes) or (goals, episodes), successes or returns.
        confidence: coverage, in (0, 1).
        resamples: bootstrap samples.
        seed: of the resampling; the same data give the same interval.

    Returns:
        The interval.

    Raises:
        ValueError: another number of axes, an empty one, or a single seed with a single goal (nothing to resample).

    References:
        The Pigeonhole Bootstrap. Owen, 2007. https://arxiv.org/abs/0712.1111
        What Teachers Should Know About the Bootstrap (expanded percentiles). Hesterberg, 2015.
        https://doi.org/10.1080/00031305.2015.1089789
    """
    cells = _cells(outcomes, "outcomes").mean(axis=2)
    if cells.size == 1:
        raise ValueError(
            "outcomes: one seed and one goal leave nothing to resample; expected at least two of either "
            "(for one goal's success rate there is wilson_interval)"
        )
    rng = np.random.default_rng(seed)
    seeds, goals = (rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n for n in cells.shape)
    means = np.einsum("bs,sg,bg->b", seeds, cells, goals)
    clusters = cells.shape[1] if cells.shape[1] > 1 else cells.shape[0]
    spread = np.sqrt(clusters / (clusters - 1)) * scipy.stats.t.ppf((1 - confidence) / 2, clusters - 1)
    tail = float(scipy.stats.norm.cdf(spread))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def paired_comparison(
    first: np.ndarray, second: np.ndarray, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> PairedComparison:
    """Compare two policies that were evaluated on the same starts and goals.

    The interval is `cluster_interval` of the episode-wise differences and shares its conditions: with one training
    seed each it compares two trained policies, not two algorithms. McNemar's test uses only the episodes where exactly
    one succeeded and takes them as independent: honest within one goal, and too small a p-value over several,
    where a whole goal can turn. Where the two disagree, believe the interval.

    Args:
        first: (seeds, goals, episodes) or (goals, episodes), booleans or 0 and 1.
        second: the same shape, the same starts at the same places.
        confidence: coverage of the interval, in (0, 1).
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        The comparison; positive differences favour the first.

    Raises:
        ValueError: shapes that differ, outcomes other than 0 and 1, or too few clusters.

    References:
        Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages. McNemar, 1947.
        https://doi.org/10.1007/BF02295996
    """
    a, b = _cells(first, "first"), _cells(second, "second")
    if a.shape != b.shape:
        raise ValueError(f"second: expected the shape of first, {np.shape(first)}, got {np.shape(second)}")
    if not np.isin([a, b], [0, 1]).all():
        raise ValueError("first, second: expected successes, 0 or 1")
    first_only, second_only = int(np.sum(a > b)), int(np.sum(b > a))
    discordant = first_only + second_only
    p_value = scipy.stats.binomtest(first_only, discordant, 0.5).pvalue if discordant else 1.0
    if a.shape[:2] == (1, 1):
        # One goal and one seed leave no clusters to resample: episodes are independent then, and are resampled.
        a, b = a.swapaxes(1, 2), b.swapaxes(1, 2)
    interval = cluster_interval(a - b, confidence=confidence, resamples=resamples, seed=seed)
    return PairedComparison(float(np.mean(a - b)), interval, first_only, second_only, float(p_value))


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all scores: less swayed by single runs than the mean, less wasteful than the median.

    Args:
        scores: one per training run and task, any shape.

    Returns:
        The mean after the lowest and the highest quarter are dropped.

    Raises:
        ValueError: no scores.

    References:
        Deep Reinforcement Learning at the Edge of the Statistical Precipice. Agarwal et al., 2021.
        https://arxiv.org/abs/2108.13264
    """
    scores = np.asarray(scores, dtype=np.float64)
    if not scores.size:
        raise ValueError("scores: expected at least one, got none")
    return float(scipy.stats.trim_mean(scores, 0.25, axis=None))


def _wilson(rate: float, trials: int, confidence: float) -> Interval:
    """Wilson's interval around a rate that need not be a whole number of trials."""
    z = float(scipy.stats.norm.ppf((1 + confidence) / 2))
    center = (rate + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    return Interval(max(0.0, float(center - half)), min(1.0, float(center + half)))


def _cells(outcomes: np.ndarray, name: str) -> np.ndarray:
    """Return the values as (seeds, goals, episodes) in float64."""
    values = np.asarray(outcomes, dtype=np.float64)
    if values.ndim not in (2, 3) or not values.size:
        raise ValueError(f"{name}: expected (seeds, goals, episodes) or (goals, episodes), got shape {values.shape}")
    return values if values.ndim == 3 else values[None]
