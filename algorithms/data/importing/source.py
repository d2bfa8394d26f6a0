"""A source as it was read: its episodes, and notes on how they were read."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from nfkern.errors import UserError

from .layout import CUT, ImportOptions, Layout, decide
from .leaves import Leaves
from .steps import Steps, load_steps

Split = Literal["train", "val"]
# Widths of the published observations of tasks that are observed differently here.
PUSHT_STATE, KITCHEN_OBSERVATION, RELAY_OBSERVATION, KITCHEN_STATE = 5, 59, 60, 30


@dataclass
class Source:
    """The episodes of a source.

    Attributes:
        kind: its format.
        episodes: in order.
        last_row: whether an episode's last row is a step, or only the state in which it ended.
        splits: the split of each episode; empty if the source names none.
        tally: what was counted on the way.
        notes: what is to be said, a line each.
    """

    kind: str
    episodes: list[Steps] = field(default_factory=list)
    last_row: Literal["step", "state"] = "step"
    splits: list[Split | None] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def grouped(
    kind: str,
    groups: Mapping[str, Leaves],
    options: ImportOptions,
    name: str,
    splits: Mapping[str, Split],
) -> Source:
    """A source with a group of arrays for each episode."""
    source = Source(kind, last_row=options.last_row or "step")
    layout: Layout | None = None
    for label, leaves in groups.items():
        found = decide(leaves, options)
        if not options.rewards:
            # A group is an episode: its flags say nothing but what rewards need.
            found = replace(found, ended=None, cut=None, masks=None)
        if layout is None:
            layout = found
            source.notes += layout.describe(leaves, options)
        elif found != layout:
            different = sorted(found.names() ^ layout.names()) or sorted(found.names())
            raise UserError(f"{label}: expected the arrays of the first episode, got a difference in {different}")
        steps = load_steps(leaves, layout, options, label)
        for part in steps.continuous(source.tally):
            source.episodes.append(_as_observed(_ended(part, layout, options), name, options, source))
            source.splits += [splits.get(label)] if splits else []
    return source


def flat(kind: str, leaves: Leaves, ends: np.ndarray | None, options: ImportOptions, name: str) -> Source:
    """A source whose arrays hold the episodes one after the other, cut at `ends`, at its flags, and where it breaks."""
    source = Source(kind)
    layout = decide(leaves, options)
    source.notes += layout.describe(leaves, options)
    steps = load_steps(leaves, layout, options, "the source")
    if len(steps.observations) != len(steps):
        raise UserError(
            f"expected as many observations as actions, got {len(steps.observations)} and {len(steps)}, of which "
            "nothing says which belongs to which"
        )
    starts = [0, *_ends(leaves, layout, ends, len(steps), source)]
    source.last_row = _last_row(leaves, layout, steps, starts, options, ends is not None)
    if source.last_row == "state":
        source.notes.append(
            "each episode's last row is the state in which it ended, as in OGBench's files: its action is kept, and "
            "no transition (if it is a step: --last-row step)"
        )
    elif options.last_row is None and ends is None and not layout.next_observations and not layout.cut:
        source.notes.append(
            "each episode's last row is taken for a step like the others (if it is only the state in which the episode "
            "ended, as in OGBench's files: --last-row state)"
        )
    _ask_about_equal_lengths(leaves, layout, options, np.diff(starts))
    for start, stop in pairwise(starts):
        whole = steps.part(start, stop, f"the source, episode of rows {start} to {stop - 1}")
        for part in whole.continuous(source.tally):
            source.episodes.append(_as_observed(_ended(part, layout, options), name, options, source))
    return source


def _ends(leaves: Leaves, layout: Layout, ends: np.ndarray | None, rows: int, source: Source) -> list[int]:
    """Ends of episodes: the first row after each."""
    found: set[int] = set()
    if ends is not None:
        ends = np.asarray(ends).reshape(-1)
        # Unsigned differences would never be negative.
        steps = np.diff(ends.astype(np.int64), prepend=0) if ends.dtype.kind in "iu" else np.zeros(1)
        if not len(ends) or (steps <= 0).any() or ends[-1] > rows:
            raise UserError(f"episode_ends: expected growing numbers from 1 to {rows}, got {ends}")
        found.update(ends.tolist())
    for name in (layout.ended, layout.cut):
        if name is not None:
            found.update((np.flatnonzero(leaves[name].read()) + 1).tolist())
    if not found and not layout.next_observations:
        raise UserError(
            "expected episode_ends, or terminals or timeouts that are not all zero: nothing says where episodes end"
        )
    if rows not in found:
        source.notes.append(
            f"rows {max(found, default=0)} to {rows - 1} come after the last end that is marked: kept as an episode, "
            "whose end is not the environment's"
        )
    return sorted({*found, rows})


def _last_row(
    leaves: Leaves, layout: Layout, steps: Steps, starts: list[int], options: ImportOptions, counted: bool
) -> Literal["step", "state"]:
    """OGBench's files, and those that nfkern writes, have a row for the state in which an episode ended."""
    if options.last_row == "state" and layout.next_observations:
        raise UserError(f"--last-row: {', '.join(layout.next_observations)} say where each row led; leave the flag out")
    if options.last_row is not None:
        return options.last_row
    if counted or layout.next_observations or layout.cut:
        return "step"
    if layout.masks is not None or layout.rewards is not None:
        return "state" if layout.masks is not None else "step"
    ogbench = any(name in leaves for name in ("qpos", "qvel", "button_states"))
    last = steps.actions[np.array(starts[1:]) - 1]
    idle = not last.any() and steps.actions.any() and len(starts) > 2
    return "state" if ogbench or idle else "step"


def _ask_about_equal_lengths(leaves: Leaves, layout: Layout, options: ImportOptions, lengths: np.ndarray) -> None:
    """Flags that fall every so many rows may be the environment's ends or those of a time limit: the user knows."""
    flags = [leaves[name].read() for name in (layout.ended, layout.cut) if name]
    # Flags of any end say no more than those beside them if they are the same.
    told = layout.cut in CUT or (len(flags) == 2 and not np.array_equal(flags[0], flags[1]))
    said = layout.rewards is None or layout.masks or told or not layout.ended or options.terminals
    if said or len(lengths) < 2 or len(set(lengths[:-1].tolist())) > 1 or lengths[-1] > lengths[0]:
        return
    which = "all episodes" if lengths[-1] == lengths[0] else "all episodes but the last"
    raise UserError(
        f"{which} have {lengths[0]} steps, and {layout.ended} alone says where they end: give --terminals cut if "
        "that is a time limit, after which values go on, or --terminals end if the environment has ended there"
    )


def _ended(steps: Steps, layout: Layout, options: ImportOptions) -> Steps:
    """Add the ends that the user declares where the source has no flags."""
    if steps.rewards is None or steps.ended is not None or options.terminals != "end" or not len(steps):
        return steps
    return replace(steps, ended=np.arange(len(steps)) == len(steps) - 1)


def _as_observed(steps: Steps, name: str, options: ImportOptions, source: Source) -> Steps:
    """Replace published observations by those of the environment that the dataset is named after, where they differ."""
    if options.observation_keys:
        return steps
    width, observations = steps.observations.shape[1], steps.observations
    if name.startswith("pusht") and width == PUSHT_STATE:
        from nfkern.algorithms.envs.imitation.push_t import keypoint_observations

        how = "observed by the block's corners and the effector, 18 numbers, as pusht is here"
        new, following = (
            None if each is None else keypoint_observations(each.astype(np.float64))
            for each in (observations, steps.next_observations)
        )
    elif name.startswith("kitchen") and width in (KITCHEN_OBSERVATION, RELAY_OBSERVATION):
        from nfkern.algorithms.envs.imitation.kitchen import positions

        how = f"observed by the positions of arm and objects, {KITCHEN_STATE} of {width} numbers, as kitchen is here"
        new, following = (
            None if each is None else each[:, :KITCHEN_STATE] if width == RELAY_OBSERVATION else positions(each)
            for each in (observations, steps.next_observations)
        )
    else:
        return steps
    if how not in source.notes:
        source.notes.append(how)
    assert new is not None
    return replace(steps, observations=new, next_observations=following, parts=())
