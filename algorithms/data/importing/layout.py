"""The roles of a source's arrays (observations, actions, rewards, ends), by their names or as asked for."""

import re
from dataclasses import dataclass
from typing import Literal

from nfkern.errors import UserError

from .leaves import Leaf, Leaves, listed, natural

# The names that formats use, those in front first: a state of a simulator often lies beside what was observed of it.
OBSERVATIONS = (("observations", "obs", "observation"), ("state", "states"))
NEXT_OBSERVATIONS = ("next_observations", "next_obs", "next_observation")
ACTIONS = (("actions", "action"),)
REWARDS = ("rewards", "reward", "next.reward")
ENDED = ("terminals", "terminations", "terminated", "dones", "done", "next.done")
CUT = ("timeouts", "truncations", "truncated", "next.truncated")
# Those of ENDED that can mark any end: beside other flags they say only where an episode stops.
EITHER = ("dones", "done", "next.done")
GOALS = ("desired_goal", "achieved_goal")
# What OGBench's relabelling reads, and D4RL's goals.
KEPT = ("qpos", "qvel", "button_states", *GOALS)


@dataclass(frozen=True)
class ImportOptions:
    """The user's statements about a source; None and empty where it speaks for itself.

    Attributes:
        observation_keys: arrays that make up the observation, in this order.
        action_key: the array of actions.
        split_masks: names of the two lists of episodes for training and validation.
        terminals: whether flags at an episode's end mean that the environment ended, or that the recording did.
        last_row: whether an episode's last row is a step, or only the state in which the episode ended.
        rewards: whether rewards are read.
    """

    observation_keys: tuple[str, ...] = ()
    action_key: str | None = None
    split_masks: tuple[str, ...] = ()
    terminals: Literal["end", "cut"] | None = None
    last_row: Literal["step", "state"] | None = None
    rewards: bool = True


@dataclass(frozen=True)
class Layout:
    """The names of a source's arrays by their use; `next_observations` go with `observations` one by one."""

    observations: tuple[str, ...]
    next_observations: tuple[str, ...]
    actions: str
    rewards: str | None
    ended: str | None
    cut: str | None
    masks: str | None
    goals: tuple[tuple[str, tuple[str, ...]], ...]

    def names(self) -> set[str]:
        """Every array that is read."""
        single = {self.actions, self.rewards, self.ended, self.cut, self.masks} - {None}
        of_goals = {name for _, names in self.goals for name in names}
        return {*self.observations, *self.next_observations, *of_goals, *(name for name in single if name)}

    def describe(self, leaves: Leaves, options: ImportOptions) -> list[str]:
        """Lines on what is read, how, and what is not."""

        def sizes(names: tuple[str, ...]) -> str:
            return " + ".join(f"{short(name)} ({leaves[name].size})" for name in names)

        lines = [f"observations: {sizes(self.observations)}", f"actions: {sizes((self.actions,))}"]
        lines += [f"kept beside the observations: {column} = {sizes(names)}" for column, names in self.goals]
        lines += [f"{name}: {leaves[name].remark}" for name in sorted(self.names()) if leaves[name].remark]
        lines += [f"rewards: {self.rewards}; {self._ends(options)}"] if self.rewards else []
        unread = {name: leaf for name, leaf in leaves.items() if name not in self.names()}
        return [*lines, f"not read: {listed(unread)}"] if unread else lines

    def _ends(self, options: ImportOptions) -> str:
        if self.masks:
            return "the environment ended where masks is 0"
        if options.terminals == "cut":
            return "no episode's end is the environment's, as asked for"
        if self.ended and self.cut in EITHER:
            return f"the environment ended where {self.ended} is set, and episodes where {self.cut} is"
        if self.ended and self.cut:
            return f"the environment ended where {self.ended} is set, and not where {self.cut} is"
        if self.ended:
            return f"the environment ended where {self.ended} is set (if that marks time limits, too: --terminals cut)"
        if options.terminals == "end":
            return "every episode's end is the environment's, as asked for"
        return "nothing says that the environment ended (if every episode's end is its end: --terminals end)"


def decide(leaves: Leaves, options: ImportOptions) -> Layout:
    """Find out the layout of a source, or of its first episode.

    Raises:
        UserError: there are several readings, or none; the message lists what there is.
    """
    asked = (_asked(leaves, "--observation-keys", key, OBSERVATIONS) for key in options.observation_keys)
    observations = tuple(asked) or _observations(leaves)
    wanted = options.action_key
    actions = _actions(leaves) if wanted is None else _asked(leaves, "--action-key", wanted, ACTIONS)
    _refuse_discrete(actions, leaves[actions], asked=wanted is not None)
    rewards, ended, cut = (_first(leaves, names) for names in (REWARDS, ENDED, CUT))
    if cut is None and ended not in EITHER:
        cut = _first(leaves, EITHER) if ended else None
    masks = _first(leaves, ("masks",)) if rewards else None
    if options.terminals and (masks or cut):
        raise UserError(f"--terminals: {masks or cut} says where the environment ended; leave the flag out")
    return Layout(
        observations=observations,
        next_observations=_following(leaves, observations),
        actions=actions,
        rewards=rewards if options.rewards else None,
        ended=ended,
        cut=cut,
        masks=masks,
        goals=_kept(leaves, observations),
    )


def root(name: str) -> str:
    """`obs` of obs/robot0_eef_pos, `observation` of observation.state."""
    return re.split(r"[/.]", name, maxsplit=1)[0]


def short(name: str) -> str:
    """A name without the root that all of them share."""
    return name.partition("/")[2] or name


def _observations(leaves: Leaves) -> tuple[str, ...]:
    found = _root(leaves, OBSERVATIONS, "--observation-keys")
    if found is None:
        flat = [name for name, leaf in leaves.items() if leaf.refusal() is None and leaf.dtype.kind == "f"]
        known = {*ACTIONS[0], *REWARDS, *ENDED, *CUT, *KEPT, "masks", "timestamp"}
        vectors = [name for name in flat if root(name) not in known and name not in known and leaves[name].size > 1]
        if len(vectors) == 1:
            return (vectors[0],)
        raise UserError(
            f"expected observations under one of the names {', '.join(OBSERVATIONS[0])}, or --observation-keys; it "
            f"holds {listed(leaves)}"
        )
    names = [name for name in sorted(leaves, key=natural) if root(name) == found]
    usable = [name for name in names if leaves[name].refusal() is None and _goal(name) is None]
    if not usable:
        raise UserError(f"observations: expected vectors of numbers, got {listed({n: leaves[n] for n in names})}")
    return tuple(usable)


def _actions(leaves: Leaves) -> str:
    found = _root(leaves, ACTIONS, "--action-key")
    if found is None:
        raise UserError(
            f"expected actions under the name actions or action, or --action-key; it holds {listed(leaves)}"
        )
    names = [name for name in leaves if root(name) == found]
    if len(names) > 1:
        raise UserError(f"actions: choose one with --action-key: {listed({name: leaves[name] for name in names})}")
    if problem := leaves[names[0]].refusal():
        raise UserError(f"{names[0]}: expected vectors of numbers, got {problem}")
    return names[0]


def _root(leaves: Leaves, ranks: tuple[tuple[str, ...], ...], flag: str) -> str | None:
    roots = {root(name) for name in leaves}
    for rank in ranks:
        found = [name for name in rank if name in roots]
        if len(found) > 1:
            candidates = {name: leaf for name, leaf in leaves.items() if root(name) in found}
            raise UserError(f"{' and '.join(found)} could both be meant: choose with {flag} from {listed(candidates)}")
        if found:
            return found[0]
    return None


def _asked(leaves: Leaves, flag: str, key: str, ranks: tuple[tuple[str, ...], ...]) -> str:
    roots = [name for rank in ranks for name in rank]
    found = [name for name in (key, *(f"{each}/{key}" for each in roots)) if name in leaves]
    if not found:
        raise UserError(f"{flag}: there is no {key}; it holds {listed(leaves)}")
    if problem := leaves[found[0]].refusal():
        raise UserError(f"{flag}: expected vectors of numbers, got {problem} in {key}")
    return found[0]


def _refuse_discrete(name: str, leaf: Leaf, *, asked: bool) -> None:
    """Refuse choices; several integers for each step may be numbers of something, if the user asked for them."""
    several = leaf.dtype.kind in "iu" and leaf.size > 1
    if leaf.dtype.kind in "iub" and not (several and asked):
        raise UserError(
            f"{name}: expected continuous actions, got discrete ones ({leaf.dtype}, "
            f"{'one' if leaf.size == 1 else leaf.size} for each step), for which there is no policy here"
            + (f" (if they name no choices: --action-key {name})" if several else "")
        )


def _following(leaves: Leaves, observations: tuple[str, ...]) -> tuple[str, ...]:
    for candidate in NEXT_OBSERVATIONS:
        names = tuple(re.sub(r"^[^/.]*", candidate, name) for name in observations)
        if all(name in leaves and leaves[name].refusal() is None for name in names):
            return names
    return ()


def _kept(leaves: Leaves, observations: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    following = {root(name) for name in leaves} & set(NEXT_OBSERVATIONS)
    found: dict[str, list[str]] = {}
    for name in sorted(leaves, key=natural):
        column = _goal(name) or (name if name in KEPT else None) or ("goal" if name == "infos/goal" else None)
        if column and name not in observations and root(name) not in following and leaves[name].refusal() is None:
            found.setdefault(column, []).append(name)
    return tuple((column, tuple(names)) for column, names in found.items())


def _goal(name: str) -> str | None:
    parts = re.split(r"[/.]", name)
    return next((part for part in parts[:2] if part in GOALS), None)


def _first(leaves: Leaves, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in leaves and leaves[name].refusal() is None), None)
