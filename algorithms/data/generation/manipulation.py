"""Cube, scene and puzzle episodes by OGBench's plan and Markov oracles."""

from typing import Any

import numpy as np

from nfkern.algorithms.data.recipes import ManipulationRecipe

from .seeding import seeded_reset

ACTION_SIZE = 5
# Gaussian noise of the Markov oracle per action (x, y, z, yaw, gripper), relative to the episode's noise level.
NOISE_SCALE = np.array([1.0, 1.0, 1.0, 3.0, 10.0])
# First coordinate of the first cube in qpos, after the arm's and the gripper's joints.
CUBE_QPOS = 14


class ManipulationCollector:
    """Collects single episodes of one manipulation recipe.

    Args:
        recipe: What to collect.
    """

    def __init__(self, recipe: ManipulationRecipe) -> None:
        import gymnasium
        import ogbench.manipspace  # noqa: F401 (registers the environments)

        self._recipe = recipe
        self._environment: Any = gymnasium.make(
            recipe.environment,
            terminate_at_goal=False,
            mode="data_collection",
            max_episode_steps=recipe.episode_rows,
            disable_env_checker=True,
        )
        self._oracles = {kind: _make_oracle(kind, recipe, self._environment) for kind in recipe.objects}

    def collect(self, seed: np.random.SeedSequence) -> dict[str, np.ndarray]:
        """Return one episode as arrays of `episode_rows` rows in OGBench's schema."""
        while True:
            # Every attempt has its own seed, so that a rejected one leaves no trace in the next.
            episode = self._attempt(seed.spawn(1)[0])
            if not self._recipe.reject_hidden_cube or _cube_in_view(episode["qpos"]):
                return episode

    def _attempt(self, seed: np.random.SeedSequence) -> dict[str, np.ndarray]:
        recipe, scene = self._recipe, self._environment.unwrapped
        observation, info, generator = seeded_reset(self._environment, seed)
        stacking = generator.uniform(*recipe.stacking)
        noise_level = generator.uniform(0.0, recipe.noise) if recipe.oracle == "markov" else 0.0
        oracle = self._oracles[info["privileged/target_task"]]
        oracle.reset(observation, info)

        columns: dict[str, list[Any]] = {key: [] for key in ("observations", "actions", "terminals", "qpos", "qvel")}
        for _ in range(recipe.episode_rows):
            action = self._act(oracle, observation, info, noise_level, generator)
            next_observation, _, terminated, truncated, info = self._environment.step(action)
            if oracle.done:
                # As in the published data, the new oracle's first action still sees the last step's info.
                target_observation, target_info = scene.set_new_target(p_stack=stacking)
                oracle = self._oracles[target_info["privileged/target_task"]]
                oracle.reset(target_observation, target_info)
            columns["observations"].append(observation)
            columns["actions"].append(action)
            columns["terminals"].append(bool(terminated or truncated))
            columns["qpos"].append(info["prev_qpos"])
            columns["qvel"].append(info["prev_qvel"])
            if "prev_button_states" in info:
                columns.setdefault("button_states", []).append(info["prev_button_states"])
            observation = next_observation
        dtypes = {"terminals": bool, "button_states": np.int64}
        return {key: np.array(column, dtype=dtypes.get(key, np.float32)) for key, column in columns.items()}

    def _act(
        self,
        oracle: Any,
        observation: np.ndarray,
        info: dict[str, Any],
        noise_level: float,
        generator: np.random.Generator,
    ) -> np.ndarray:
        if generator.random() < self._recipe.random_action_probability:
            return generator.uniform(-1.0, 1.0, ACTION_SIZE)
        noise = noise_level * NOISE_SCALE * generator.normal(size=ACTION_SIZE)
        return np.asarray(np.clip(oracle.select_action(observation, info) + noise, -1.0, 1.0))


def _make_oracle(kind: str, recipe: ManipulationRecipe, environment: Any) -> Any:
    from ogbench.manipspace.oracles.markov import button_markov, cube_markov, drawer_markov, window_markov
    from ogbench.manipspace.oracles.plan import button_plan, cube_plan, drawer_plan, window_plan

    classes: dict[str, dict[str, Any]] = {
        "plan": {
            "cube": cube_plan.CubePlanOracle,
            "button": button_plan.ButtonPlanOracle,
            "drawer": drawer_plan.DrawerPlanOracle,
            "window": window_plan.WindowPlanOracle,
        },
        "markov": {
            "cube": cube_markov.CubeMarkovOracle,
            "button": button_markov.ButtonMarkovOracle,
            "drawer": drawer_markov.DrawerMarkovOracle,
            "window": window_markov.WindowMarkovOracle,
        },
    }
    arguments: dict[str, Any] = {"env": environment}
    if recipe.oracle == "plan":
        arguments |= {"noise": recipe.noise, "noise_smoothing": recipe.noise_smoothing}
    else:
        arguments |= {"min_norm": recipe.minimum_norm}
    if recipe.gripper_always_closed:
        arguments["gripper_always_closed"] = True
    return classes[recipe.oracle][kind](**arguments)


def _cube_in_view(qpos: np.ndarray) -> bool:
    """Return whether the cube stays where the scene's cameras see it, or lies in the drawer."""
    y, z = qpos[:, CUBE_QPOS + 1], qpos[:, CUBE_QPOS + 2]
    hidden_left = (y <= -0.3) & ((z < 0.06) | (z > 0.08))
    return not bool((y >= 0.29).any() or hidden_left.any())
