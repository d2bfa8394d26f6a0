"""Own data: an environment whose actions lie in any box, a script's data of it, and files of random numbers."""

import gymnasium
import numpy as np

from nfkern.algorithms.data import TransitionDataset

EPISODE = 8
BOXES = {
    "unequal": ([0.0, -0.02], [512.0, 0.01]),
    "pixels": ([0.0, 0.0], [512.0, 512.0]),
    "unit": ([-1.0, -1.0], [1.0, 1.0]),
}


class Follow(gymnasium.Env):
    """Observations are (position, target), both in [-1, 1]^2; an action says where to be, in the box's units.

    The goal is to have been at the target, within a tenth of the box, at every step.
    """

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)

    def __init__(self, box="unequal"):
        low, high = (np.array(bound, np.float32) for bound in BOXES[box])
        self.action_space = gymnasium.spaces.Box(low, high)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.target = self.np_random.uniform(-0.9, 0.9, 2).astype(np.float32)
        self.position, self.steps, self.worst = np.zeros(2, np.float32), 0, 0.0
        return self.observe(), {"goal": np.tile(self.target, 2)}

    def step(self, action):
        assert self.action_space.contains(action)
        low, high = self.action_space.low, self.action_space.high
        self.position = ((action - low) / (high - low) * 2 - 1).astype(np.float32)
        self.steps, self.worst = self.steps + 1, max(self.worst, float(np.abs(self.position - self.target).max()))
        done = self.steps == EPISODE
        return self.observe(), -self.worst, done, False, {"success": self.worst < 0.2}

    def observe(self):
        return np.concatenate([self.position, self.target])


class FollowInParts(Follow):
    """`Follow` with a Dict of observations, as gymnasium's goal environments have it, and no goal in `info`."""

    observation_space = gymnasium.spaces.Dict(
        {name: gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float64) for name in ("desired_goal", "position")}
    )

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], {}

    def observe(self):
        return {"position": self.position.astype(float), "desired_goal": self.target.astype(float)}


def register(box, kind=Follow):
    """The environment's id."""
    name = f"{kind.__name__}In{box.title()}-v0"
    if name not in gymnasium.registry:
        gymnasium.register(name, kind, kwargs={"box": box})
    return name


def scripted(box, episodes=300, seed=0):
    """Data of a script that goes to the target with some noise; rewards say how near it came."""
    rng = np.random.default_rng(seed)
    low, high = (np.array(bound) for bound in BOXES[box])
    targets = np.repeat(rng.uniform(-1, 1, (episodes, 1, 2)), EPISODE + 1, 1)
    reached = (targets + 0.05 * rng.normal(size=targets.shape)).clip(-1, 1)
    positions = np.concatenate([np.zeros((episodes, 1, 2)), reached[:, :-1]], 1)
    terminals = np.zeros((episodes, EPISODE + 1), bool)
    terminals[:, -1] = True
    return TransitionDataset(
        np.concatenate([positions, targets], 2).reshape(-1, 4),
        (low + (reached + 1) / 2 * (high - low)).reshape(-1, 2),
        terminals.ravel(),
        rewards=-np.abs(reached - targets).sum(2).ravel(),
        masks=np.ones(terminals.size),
        name=f"scripted-{box}",
    )


def save(dataset, path):
    """Write the data as an .npz file, rewards included."""
    terminals = np.zeros(len(dataset.observations), bool)
    terminals[dataset.episode_ends] = True
    columns = {name: getattr(dataset, name) for name in ("observations", "actions", "rewards", "masks")}
    np.savez(path, terminals=terminals, **columns)
    return path


def write_random(path, observation_size, action_size, episodes=4, rows=120):
    """An .npz file of random numbers."""
    rng = np.random.default_rng(0)
    terminals = np.zeros((episodes, rows), bool)
    terminals[:, -1] = True
    size = episodes * rows
    np.savez(
        path,
        observations=rng.normal(size=(size, observation_size)).astype(np.float32),
        actions=rng.uniform(-1, 1, (size, action_size)).astype(np.float32),
        terminals=terminals.ravel(),
        rewards=rng.normal(size=size).astype(np.float32),
        masks=np.ones(size, np.float32),
    )
