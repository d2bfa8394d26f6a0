"""Steps as a source has them, and the rows that become of them.

An episode of L transitions has L + 1 rows. A source with as many observations as actions gives the last one from
its next observations; where it has none, the last observation is repeated if nothing depends on it (imitation, or the
environment ended), and else the last step is no transition: nobody may learn from a state that was made up.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from nfkern.algorithms.data.reading import LARGEST, usable
from nfkern.errors import UserError

from .layout import EITHER, ImportOptions, Layout, short
from .leaves import Leaves

Rows = dict[str, np.ndarray]


@dataclass(frozen=True)
class Steps:
    """Consecutive steps.

    Attributes:
        label: where they come from, for messages.
        observations: (steps, size), or one more, the one after the last action.
        actions: (steps, size).
        rewards: (steps,), of each transition; None if the source has none.
        ended: (steps,) bool, where the environment ended; None if the source does not say.
        next_observations: (steps, size) if the source has them.
        extras: more arrays, as long as the observations.
        parts: names and sizes of what the observations were joined from.
        first: number of the first step, for messages.
    """

    label: str
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray | None = None
    ended: np.ndarray | None = None
    next_observations: np.ndarray | None = None
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    parts: tuple[tuple[str, int], ...] = ()
    first: int = 0

    def __len__(self) -> int:
        """Number of actions."""
        return len(self.actions)

    def part(self, start: int, stop: int, label: str | None = None) -> "Steps":
        """Some of the steps; an observation after the last action goes with the last part."""
        after = stop + (stop == len(self) and len(self.observations) > len(self))
        return replace(
            self,
            label=label or self.label,
            observations=self.observations[start:after],
            actions=self.actions[start:stop],
            rewards=None if self.rewards is None else self.rewards[start:stop],
            ended=None if self.ended is None else self.ended[start:stop],
            next_observations=None if self.next_observations is None else self.next_observations[start:stop],
            extras={key: each[start:after] for key, each in self.extras.items()},
            first=self.first + start,
        )

    def continuous(self, tally: Counter[str]) -> Iterator["Steps"]:
        """The parts within which each next observation is the observation of the next row."""
        breaks = np.zeros(0, dtype=int)
        if self.next_observations is not None and len(self):
            following = self.observations[1 : len(self)]
            # In float32, as both are stored: one of them may have been saved in fewer digits than the other.
            with np.errstate(over="ignore"):
                differ = self.next_observations[: len(following)].astype(np.float32) != following.astype(np.float32)
            breaks = np.flatnonzero(differ.any(1)) + 1
            tally["breaks"] += len(breaks)
        borders = [0, *breaks.tolist(), len(self)]
        for start, stop in pairwise(borders):
            yield self.part(start, stop)


def load_steps(leaves: Leaves, layout: Layout, options: ImportOptions, label: str) -> Steps:
    """Read what a layout names.

    Raises:
        UserError: arrays do not fit together.
    """

    def joined(names: tuple[str, ...]) -> np.ndarray:
        return np.concatenate([_matrix(leaves, name, label) for name in names], 1)

    def vector(name: str | None, *, flags: bool = False) -> np.ndarray | None:
        if name is None:
            return None
        values = _matrix(leaves, name, label)
        if values.shape[1] != 1 or (flags and not np.isin(values, (0, 1)).all()):
            expected = "one flag, 0 or 1," if flags else "one number"
            raise UserError(f"{label}: expected {expected} for each step in {name}, got {leaves[name]}")
        return values[:, 0]

    ended, cut, masks = (vector(name, flags=True) for name in (layout.ended, layout.cut, layout.masks))
    if masks is not None:
        ended = masks == 0
    elif ended is not None and cut is not None and layout.ended in EITHER and not (cut > ended).any():
        # Flags of any end, which the cuts are among.
        ended = ended * (1 - cut)
    elif ended is not None and options.terminals == "cut":
        ended = np.zeros(len(ended), dtype=bool)
    steps = Steps(
        label=label,
        observations=joined(layout.observations),
        actions=joined((layout.actions,)),
        rewards=vector(layout.rewards),
        ended=None if ended is None else ended.astype(bool),
        next_observations=joined(layout.next_observations) if layout.next_observations else None,
        extras={column: joined(names) for column, names in layout.goals},
        parts=tuple((short(name), leaves[name].size) for name in layout.observations),
    )
    following = steps.next_observations
    if following is not None and following.shape[1] != steps.observations.shape[1]:
        raise UserError(
            f"{label}: expected next observations of the size of the observations, {steps.observations.shape[1]}, got "
            f"{following.shape[1]}"
        )
    more = len(steps.observations) - len(steps)
    if more not in (0, 1):
        raise UserError(
            f"{label}: expected as many observations as actions, or one more, got {len(steps.observations)} and "
            f"{len(steps)}"
        )
    by_step = {layout.rewards: steps.rewards, layout.masks or layout.ended: ended, layout.cut: cut}
    for name, each in (by_step | {"next observations": steps.next_observations}).items():
        if each is not None and len(each) != len(steps):
            raise UserError(f"{label}: expected {name} of all {len(steps)} steps, got {len(each)}")
    extras = {key: _as_long(key, each, len(steps.observations), label) for key, each in steps.extras.items()}
    return replace(steps, extras=extras)


def _matrix(leaves: Leaves, name: str, label: str) -> np.ndarray:
    if leaves[name].refusal() is not None:
        raise UserError(f"{label}: expected numbers in {name}, got {leaves[name]}")
    array = np.asarray(leaves[name].read())
    return array.reshape(len(array), -1) if array.size else array.reshape(len(array), leaves[name].size)


def _as_long(key: str, array: np.ndarray, rows: int, label: str) -> np.ndarray:
    if rows - len(array) not in (0, 1) or (not len(array) and rows):
        raise UserError(f"{label}: expected {key} of all {rows} observations, got {len(array)}")
    return np.concatenate([array, array[-1:]])[:rows]


def rows_of(steps: Steps, last_row: Literal["step", "state"], tally: Counter[str]) -> Rows | None:
    """The rows of an episode in the stored format; None if no transition remains. What is left out is counted.

    Raises:
        UserError: a number is not finite, or too large.
    """
    tally["rows"] += max(len(steps), len(steps.observations))
    given = steps.extras
    steps, after = _with_last_observation(steps)
    if not len(steps) or (len(steps) == 1 and not after and last_row == "state"):
        tally["empty"] += 1
        return None
    observations, actions, extras, added = steps.observations, steps.actions, steps.extras, after
    if not after and last_row == "step":
        if steps.rewards is None or (steps.ended is not None and steps.ended[-1]):
            observations = np.concatenate([observations, observations[-1:]])
            extras = {key: np.concatenate([each, each[-1:]]) for key, each in extras.items()}
            tally["repeated"] += 1
            added = True
        else:
            tally["empty" if len(steps) == 1 else "unknown"] += 1
            if len(steps) == 1:
                return None
    if added:
        actions = np.concatenate([actions, actions[-1:]])
    terminals = np.zeros(len(observations), dtype=bool)
    terminals[-1] = True
    rows = {"observations": observations, "actions": actions, "terminals": terminals}
    if steps.rewards is not None:
        ended = np.zeros(len(steps), dtype=bool) if steps.ended is None else steps.ended
        # The last row begins no transition.
        rows["rewards"] = np.concatenate([steps.rewards, np.zeros(int(added), steps.rewards.dtype)])
        rows["masks"] = np.concatenate([~ended, np.ones(int(added), dtype=bool)])
    rows |= extras
    tally["transitions"] += len(observations) - 1
    for key, each in given.items():
        # No algorithm has to read them, so that they stop nothing.
        tally[f"not finite {key}"] += int((~usable(each)).sum())
    read = {key: _finite(key, each, steps) for key, each in rows.items() if key not in ("terminals", *extras)}
    return rows | read | {key: _narrowed(each) for key, each in extras.items()}


def _with_last_observation(steps: Steps) -> tuple[Steps, bool]:
    """The steps with the observation after the last action, and whether there is one."""
    if len(steps.observations) > len(steps):
        return steps, True
    if steps.next_observations is None or not len(steps):
        return steps, False
    observations = np.concatenate([steps.observations, steps.next_observations[-1:]])
    extras = {key: np.concatenate([each, each[-1:]]) for key, each in steps.extras.items()}
    return replace(steps, observations=observations, extras=extras), True


def _narrowed(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _finite(key: str, array: np.ndarray, steps: Steps) -> np.ndarray:
    bad = np.argwhere(~usable(array))
    if not len(bad):
        return _narrowed(array)
    row, *features = bad[0].tolist()
    name, borders = key, np.cumsum([0, *(size for _, size in steps.parts)])
    if key == "observations" and borders[-1] == array.shape[1]:
        part = int(np.searchsorted(borders, features[0], side="right")) - 1
        name, features = steps.parts[part][0], [features[0] - int(borders[part])]
    place = f"row {steps.first + row}" + "".join(f", feature {feature}," for feature in features)
    hint = "; --no-rewards leaves them out" if key == "rewards" else ""
    raise UserError(
        f"{name}: expected finite numbers up to {LARGEST:.2g}, got {array[tuple(bad[0])]} in {place} of {steps.label}, "
        f"and {len(bad)} in all of this episode{hint}"
    )
