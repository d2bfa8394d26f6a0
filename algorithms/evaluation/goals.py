"""Evaluation of online agents: the share of a maze's goals that they reach."""

import contextlib
from typing import Any, Literal

import numpy as np

from nfkern.algorithms.envs.mazes import make_vector_maze
from nfkern.algorithms.evaluation.statistics import wilson_interval


def evaluate_goals(
    agent: Any, env_name: str, *, episodes: int, seed: int = 0, goals: Literal["all", "hard"] = "all"
) -> dict[str, float]:
    """Run whole episodes side by side, each for a goal that its environment draws; the agent acts without noise.

    Args:
        agent: an `OnlineGCRL`, or what acts like one.
        env_name: a maze.
        episodes: how many.
        seed: of starts and goals.
        goals: every goal cell of the maze, or the far ones.

    Returns:
        `success`, the share of episodes that were within the tolerance of the goal at some time, as JaxGCRL counts it;
        `success_low` and `success_high`, its Wilson interval (95 %); `success_at_end`, the share that are there in the
        last step.
    """
    with contextlib.closing(make_vector_maze(env_name, episodes, goals=goals)) as environments:
        # Another sequence than training's with the same seed.
        seeds = np.random.SeedSequence((seed, 0, 1)).generate_state(episodes).tolist()
        current, _ = environments.reset(seed=seeds)
        reached = np.zeros(episodes, bool)
        going = np.ones(episodes, bool)
        at_end, nowhere = np.zeros(episodes, bool), np.zeros(episodes, bool)
        while going.any():
            actions = agent.act(current["observation"][:, None], current["desired_goal"])[:, 0]
            current, _, terminated, truncated, info = environments.step(actions)
            success = np.asarray(info.get("success", nowhere), bool) & going
            reached |= success
            ended = going & (terminated | truncated)
            at_end |= success & ended
            going &= ~ended
    interval = wilson_interval(int(reached.sum()), episodes)
    return {
        "success": float(reached.mean()),
        "success_low": interval.low,
        "success_high": interval.high,
        "success_at_end": float(at_end.mean()),
    }
