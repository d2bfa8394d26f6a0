"""The recipes of the datasets that scripted experts can make: OGBench's published ones, and those for imitation.

OGBench's numbers are the facts of the published data (Park et al., "OGBench: Benchmarking Offline Goal-Conditioned RL",
https://arxiv.org/abs/2410.20092): episode counts and lengths, noise levels and goal sampling.
"""

import difflib
from dataclasses import dataclass
from typing import ClassVar, Literal

from nfkern.algorithms.envs.imitation import METAWORLD, find, packages
from nfkern.errors import UserError

LOCAL_SAMPLE = (
    "A local sample: it follows the published recipe, but its random draws and its MuJoCo version are others. "
    "Say so beside any number compared with results on the published data."
)
SCRIPTED = "Demonstrations by a script: there is no published file of this name."


@dataclass(frozen=True)
class PointMazeRecipe:
    """A point mass follows the breadth-first subgoals of a maze with noisy unit steps.

    `navigate` draws a new goal whenever one is reached; `stitch` goes to a cell four steps away and stays there.
    """

    name: str
    environment: str
    collection: Literal["navigate", "stitch"]
    episodes: int
    episode_rows: int
    action_noise: float = 0.5

    note: ClassVar[str] = LOCAL_SAMPLE
    packages: ClassVar[tuple[str, ...]] = ("ogbench", "mujoco", "gymnasium", "numpy")


@dataclass(frozen=True)
class ManipulationRecipe:
    """A robot arm performs one random sub-task after another.

    `plan` follows precomputed trajectories with correlated noise ("play" data); `markov` is a closed-loop controller
    with Gaussian noise and occasional random actions ("noisy" data).
    """

    name: str
    environment: str
    oracle: Literal["plan", "markov"]
    objects: tuple[str, ...]
    episodes: int
    random_action_probability: float
    stacking: tuple[float, float]
    episode_rows: int = 1001
    noise: float = 0.1
    noise_smoothing: float = 0.5
    minimum_norm: float = 0.4
    gripper_always_closed: bool = False
    reject_hidden_cube: bool = False

    note: ClassVar[str] = LOCAL_SAMPLE
    packages: ClassVar[tuple[str, ...]] = ("ogbench", "mujoco", "gymnasium", "numpy")


@dataclass(frozen=True)
class DemonstrationRecipe:
    """A scripted expert solves a task of `nfkern.algorithms.envs.imitation`, in one of several ways, until it succeeds.

    Episodes differ in length: `episode_rows` is about their mean, for planning.
    """

    name: str
    environment: str
    episodes: int
    episode_rows: int
    action_noise: float = 0.2

    note: ClassVar[str] = SCRIPTED

    @property
    def packages(self) -> tuple[str, ...]:
        """Those whose version decides the bytes."""
        return (*(packages(self.environment) or ()), "gymnasium", "numpy")


Recipe = PointMazeRecipe | ManipulationRecipe | DemonstrationRecipe


def _point_mazes() -> list[Recipe]:
    # Rows per episode are one more than its transitions: the last row has no successor.
    shapes: dict[Literal["navigate", "stitch"], dict[str, tuple[int, int]]] = {
        "navigate": {"medium": (1000, 1001), "large": (1000, 1001), "giant": (500, 2001), "teleport": (1000, 1001)},
        "stitch": dict.fromkeys(["medium", "large", "giant", "teleport"], (5000, 201)),
    }
    return [
        PointMazeRecipe(f"pointmaze-{maze}-{collection}-v0", f"pointmaze-{maze}-v0", collection, episodes, rows)
        for collection, mazes in shapes.items()
        for maze, (episodes, rows) in mazes.items()
    ]


def _manipulation() -> list[Recipe]:
    cube, scene = ("cube",), ("cube", "button", "drawer", "window")
    # environment: objects, episodes, range of the stacking probability, probability of a random action (noisy data)
    table = {
        "cube-single": (cube, 1000, (0.0, 0.0), 0.1),
        "cube-double": (cube, 1000, (0.0, 0.25), 0.1),
        "cube-triple": (cube, 3000, (0.05, 0.35), 0.1),
        "cube-quadruple": (cube, 5000, (0.1, 0.5), 0.1),
        "scene": (scene, 1000, (0.5, 0.5), 0.1),
        "puzzle-3x3": (("button",), 1000, (0.5, 0.5), 0.2),
        "puzzle-4x4": (("button",), 1000, (0.5, 0.5), 0.2),
        "puzzle-4x5": (("button",), 3000, (0.5, 0.5), 0.2),
        "puzzle-4x6": (("button",), 5000, (0.5, 0.5), 0.2),
    }
    oracles: dict[str, Literal["plan", "markov"]] = {"play": "plan", "noisy": "markov"}
    return [
        ManipulationRecipe(
            name=f"{environment}-{collection}-v0",
            environment=f"{environment}-v0",
            oracle=oracle,
            objects=objects,
            episodes=episodes,
            random_action_probability=0.0 if oracle == "plan" else random_action,
            stacking=stacking,
            gripper_always_closed=environment.startswith("puzzle"),
            reject_hidden_cube=environment == "scene",
        )
        for environment, (objects, episodes, stacking, random_action) in table.items()
        for collection, oracle in oracles.items()
    ]


# As many demonstrations as people gave of comparable tasks: some hundreds.
_DEMONSTRATIONS: list[Recipe] = [
    DemonstrationRecipe("pointmass-scripted-v0", "pointmass-v0", episodes=500, episode_rows=47),
    DemonstrationRecipe("blockpush-scripted-v0", "blockpush-v0", episodes=500, episode_rows=90),
]

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*_point_mazes(), *_manipulation(), *_DEMONSTRATIONS)}


def find_recipe(name: str) -> Recipe:
    """Return the recipe of a dataset name such as `pointmaze-medium-navigate-v0`.

    Raises:
        UserError: If no scripted expert can generate this dataset.
    """
    recipe = RECIPES.get(data_name(name))
    if recipe is not None:
        return recipe
    environment = find(name)
    if environment is not None and environment.startswith(METAWORLD) and name != environment:
        return DemonstrationRecipe(name, environment, episodes=100, episode_rows=100, action_noise=0.1)
    if name.startswith(("antmaze", "antsoccer", "humanoidmaze")):
        reason = "its walking experts are trained policies that no package ships"
    elif environment is not None:
        raise UserError(f"cannot generate {name!r}: people demonstrated it. nfkern data import reads their files")
    elif name.startswith("visual-"):
        reason = "image observations are not supported"
    else:
        similar = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.5)
        reason = f"no such recipe, did you mean {' or '.join(similar)}?" if similar else "no such recipe"
    raise UserError(
        f"cannot generate {name!r}: {reason} (nfkern data generate --help lists the names; "
        f"a published dataset can be fetched with nfkern data download {name})"
    )


def data_name(name: str) -> str:
    """Return the name of the data file behind an OGBench name.

    Single-task and oracle-representation variants (`cube-single-play-singletask-task2-v0`) read the same file as the
    goal-conditioned name (`cube-single-play-v0`).
    """
    parts = name.split("-")
    if "singletask" in parts:
        return "-".join([*parts[: parts.index("singletask")], parts[-1]])
    return "-".join(part for part in parts if part != "oraclerep")
