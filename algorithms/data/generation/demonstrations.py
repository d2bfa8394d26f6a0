"""Demonstrations by the scripted experts of the imitation tasks."""

import gymnasium
import numpy as np

from nfkern.algorithms.data.recipes import DemonstrationRecipe
from nfkern.algorithms.envs import imitation

from .seeding import seeded_reset


class DemonstrationCollector:
    """Collects single demonstrations, each of which succeeds.

    Args:
        recipe: What to collect.
    """

    def __init__(self, recipe: DemonstrationRecipe) -> None:
        self._recipe = recipe
        found = imitation.environment_id(recipe.environment)
        assert found is not None
        self._environment = gymnasium.make(found, disable_env_checker=True)
        self._expert = imitation.make_expert(recipe.environment)

    def collect(self, seed: np.random.SeedSequence) -> dict[str, np.ndarray]:
        """Return one episode in OGBench's schema: a row for each step, and one for where it ended."""
        while True:
            # Every attempt has its own seed, so that a failed one leaves no trace in the next.
            episode = self._attempt(seed.spawn(1)[0])
            if episode is not None:
                return episode

    def _attempt(self, seed: np.random.SeedSequence) -> dict[str, np.ndarray] | None:
        observation, _, generator = seeded_reset(self._environment, seed)
        self._expert.begin(generator)
        observations, actions = [observation], []
        while True:
            action = self._expert.act(observation)
            noise = generator.normal(0.0, self._recipe.action_noise, action.shape)
            # What is recorded is what was done, noise included, as in OGBench's data.
            actions.append(np.clip(action + noise, -1.0, 1.0).astype(np.float32))
            observation, _, terminated, truncated, info = self._environment.step(actions[-1])
            observations.append(observation)
            if terminated or truncated:
                break
        if not info["success"]:
            return None
        # Nothing is done at the end; the row still needs an action.
        actions.append(np.zeros_like(actions[-1]))
        terminals = np.zeros(len(actions), dtype=bool)
        terminals[-1] = True
        return {"observations": np.stack(observations), "actions": np.stack(actions), "terminals": terminals}
