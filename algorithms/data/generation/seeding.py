"""One seed per episode, so that data do not depend on which worker collects what, or when."""

from typing import Any

import numpy as np

SPLITS = ("train", "val")


def episode_seed(seed: int, split: str, episode: int) -> np.random.SeedSequence:
    """Return the seed of one episode, a function of (seed, split, episode) alone."""
    return np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), episode))


def seeded_reset(
    environment: Any, seed: np.random.SeedSequence, **reset_arguments: Any
) -> tuple[np.ndarray, dict[str, Any], np.random.Generator]:
    """Reset an OGBench environment with every source of randomness seeded.

    OGBench's oracles and mazes draw from numpy's global generator, its mazes also from their action space, and its
    manipulation scenes from the environment's own generator: all three are set here. This changes the global numpy
    state of the process, so it belongs in worker processes.

    Returns:
        The observation, the info dictionary, and a generator for the caller's own draws.
    """
    words = seed.generate_state(4, np.uint64)
    np.random.seed(words[:1].view(np.uint32))  # noqa: NPY002 (the oracles use the global generator)
    # The manipulation environments build a new action space at every access, which no seed can reach: the base class
    # tells them apart, and their random actions are drawn by the caller.
    if "action_space" in vars(environment.unwrapped):
        environment.unwrapped.action_space.seed(int(words[1]))
    observation, info = environment.reset(seed=int(words[2]), **reset_arguments)
    return observation, info, np.random.default_rng(int(words[3]))
