"""The pictures of `nfkern report` and `nfkern.plot`. Needs matplotlib, and the simulator for maze walls."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.agents.registry import load_agent
from nfkern.algorithms.data import BatchSampler, TransitionDataset
from nfkern.algorithms.data.files import has_validation
from nfkern.algorithms.evaluation.result import stack_outcomes
from nfkern.algorithms.evaluation.statistics import success_interval
from nfkern.algorithms.reports.groups import Group
from nfkern.algorithms.runs.evaluations import load_trajectories

ACTIONS_CAPTION = (
    "Sampled actions (first two dimensions) at states and goals of the validation data, or without any of the data "
    "themselves: of 512 random ones, the four where the first policy's samples most clearly point two opposite ways. A "
    "Gaussian policy acts with its mean."
)
CANDIDATES, PROBES, STATES, SAMPLES = 512, 48, 4, 400


def success(groups: Sequence[Group]) -> Figure | None:
    """Success of each group with its 95 % interval, and dots for its runs; None where no evaluation is common to all.

    Groups of one environment stand side by side, environments in panels of their own.
    """
    names = list(dict.fromkeys(group.env_name for group in groups if group.evaluations))
    if not names:
        return None
    panels = [[group for group in groups if group.env_name == name and group.evaluations] for name in names]
    figure = Figure(figsize=(sum(1.2 * len(panel) + 0.6 for panel in panels) + 0.8, 3.2), layout="constrained")
    widths = [len(panel) for panel in panels]
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True, width_ratios=widths)[0]
    for axis, panel in zip(axes, panels, strict=True):
        for place, group in enumerate(panel):
            outcomes = stack_outcomes(group.evaluations)
            rate, interval = outcomes.mean(), success_interval(outcomes)
            reach = [[rate - interval.low], [interval.high - rate]]
            axis.bar(place, rate, width=0.7, color=f"C{place}", alpha=0.8)
            axis.errorbar(place, rate, yerr=reach, color="black", capsize=4)
            if len(outcomes) > 1:
                rates = outcomes.mean((1, 2))
                axis.plot(
                    np.linspace(place - 0.2, place + 0.2, len(rates)),
                    rates,
                    "o",
                    color="black",
                    markersize=3,
                    clip_on=False,
                )
        axis.set(title=panel[0].first.evaluated_in, ylim=(0, 1))
        axis.set_xticks(range(len(panel)), [group.label for group in panel], rotation=20, ha="right")
        axis.title.set_fontsize("small")
    axes[0].set_ylabel("success")
    return figure


def learning_curves(groups: Sequence[Group]) -> Figure:
    """Loss over steps for each group, and success where there was more than one evaluation."""
    figure = Figure(figsize=(4 * len(groups) + 1, 3), layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for axis, group in zip(axes, groups, strict=True):
        for run in (member.run for member in group.members):
            rows = run.rows("train.csv")
            for split, color in (("training", "tab:blue"), ("validation", "tab:orange")):
                key = f"{split}/actor/loss"
                points = [(int(row["step"]), float(row[key])) for row in rows if row.get(key)]
                if not points:
                    continue
                label = split if run is group.first else None
                axis.plot(*zip(*points, strict=True), color=color, label=label, linewidth=1)
            evaluations = run.rows("eval.csv")
            if len(evaluations) > 1:
                twin = axis.twinx()
                steps = [int(row["step"]) for row in evaluations]
                twin.plot(steps, [float(row["evaluation/success"]) for row in evaluations], "k.--")
                twin.set(ylim=(0, 1), ylabel="success (dashed)")
        axis.set(title=group.label, xlabel="gradient steps", ylabel="loss")
        axis.legend(frameon=False)
    return figure


def action_distributions(groups: Sequence[Group], dataset_dir: Path) -> Figure | None:
    """Samples of each group's first run at a few states; None for actions of one dimension."""
    loaded = [(load_agent(group.members[0].checkpoint.path), group) for group in groups]
    loaded = [(agent, group) for agent, group in loaded if agent.sizes["action_size"] >= 2]
    if not loaded:
        return None
    agents, groups = [agent for agent, _ in loaded], [group for _, group in loaded]
    name = groups[0].env_name
    data = TransitionDataset.load(name, dataset_dir, split="val" if has_validation(name, dataset_dir) else "train")
    goals = next((agent.config.goal_sampling() for agent in agents if agent.goal_conditioned), None)
    batch = BatchSampler(data, CANDIDATES, goals, history=max(agent.history for agent in agents), seed=0).sample()
    probes = _act(agents[0], batch, np.arange(CANDIDATES), PROBES)
    states = np.argsort(_two_sidedness(probes))[::-1][:STATES]
    figure = Figure(figsize=(3 * STATES, 3 * len(agents)), layout="constrained")
    axes = figure.subplots(len(agents), STATES, squeeze=False, sharex=True, sharey=True)
    bounds = data.statistics().actions
    margins = 0.05 * (bounds.max - bounds.min) + 1e-6
    limits = np.stack([bounds.min - margins, bounds.max + margins], 1)
    for row, (agent, group) in enumerate(loaded):
        actions = _act(agent, batch, states, SAMPLES)
        size = 8 if actions.std(1).max() > 1e-4 else 60
        for column in range(STATES):
            axis = axes[row, column]
            axis.scatter(actions[column, :, 0], actions[column, :, 1], s=size, alpha=0.35, linewidths=0)
            axis.set(xlim=limits[0], ylim=limits[1], box_aspect=1)
            if row == 0:
                axis.set_title(f"state {column + 1}")
        axes[row, 0].set_ylabel(group.label)
    return figure


def _two_sidedness(actions: np.ndarray) -> np.ndarray:
    """Second minus first circular moment of the directions (states, samples, >= 2): near 1 for two opposite ones."""
    angles = np.arctan2(actions[..., 1], actions[..., 0])
    first, second = (np.abs(np.exp(1j * k * angles).mean(1)) for k in (1, 2))
    return np.asarray(second - first)


def paths(groups: Sequence[Group], episodes: int = 10) -> Figure | None:
    """Recorded paths, a row for each group and a column for each goal; None without recordings.

    Where there is one goal alone, the groups lie side by side.
    """
    recorded = []
    for group in groups:
        if group.starts is None:
            continue
        result, file = group.members[0].evaluations[group.starts]
        arrays = load_trajectories(file, result)
        if arrays is not None:
            recorded.append((group, arrays))
    draw = _background(groups[0].first.evaluated_in) if recorded else None
    if draw is None:
        return None
    tasks = np.unique(recorded[0][1]["task_ids"])
    beside = len(tasks) == 1
    shape = (1, len(recorded)) if beside else (len(recorded), len(tasks))
    figure = Figure(figsize=(2.6 * shape[1], 2.8 * shape[0]), layout="constrained")
    axes = figure.subplots(*shape, squeeze=False)
    if beside:
        axes = axes.T
    for row, (group, data) in enumerate(recorded):
        for column, task in enumerate(tasks):
            axis = axes[row, column]
            draw(axis)
            for index in np.flatnonzero(data["task_ids"] == task)[:episodes]:
                start, end = data["offsets"][index : index + 2]
                path = data["positions"][start:end]
                color = "tab:green" if data["successes"][index] else "tab:red"
                axis.plot(path[:, 0], path[:, 1], color=color, alpha=0.5, linewidth=1)
                axis.plot(*path[0], "o", color="black", markersize=2)
                axis.plot(*data["goals"][index], "*", color="gold", markeredgecolor="black", markersize=7)
            axis.set(aspect="equal", xticks=[], yticks=[])
            if beside:
                axis.set_title(group.label)
            elif row == 0:
                axis.set_title(f"goal {task}")
        if not beside:
            axes[row, 0].set_ylabel(group.label)
    return figure


def _act(agent: Agent, batch: dict[str, np.ndarray], rows: np.ndarray, samples: int) -> np.ndarray:
    """Actions (rows, samples, action_size): the first of each chunk."""
    observations = batch["observations"].reshape(len(batch["observations"]), -1, agent.sizes["observation_size"])
    observations = observations[rows, -agent.history :].repeat(samples, 0)
    goals = batch["goals"][rows].repeat(samples, 0) if agent.goal_conditioned else None
    actions = agent.freeze().act(observations, goals, torch.Generator().manual_seed(0))
    return actions[:, 0].reshape(len(rows), samples, -1)


def _background(env_name: str) -> Callable[[Any], None] | None:
    """Return a function that draws the maze or the table; None where the first two numbers observed are no position."""
    from nfkern.algorithms.envs.make import make_environment

    env = make_environment(env_name)
    try:
        maze: Any = env.unwrapped
        if env.has_wrapper_attr("table"):
            env.reset(seed=0)
            table, picture = env.get_wrapper_attr("table"), env.get_wrapper_attr("picture")(400)
            return lambda axis: axis.imshow(picture, extent=table, alpha=0.6)
        if not hasattr(maze, "maze_map"):
            return None
        origin = maze.ij_to_xy((0, 0))
        cells, unit = np.asarray(maze.maze_map), float(maze._maze_unit)
        return functools.partial(_draw_walls, maze=cells, unit=unit, origin=(float(origin[0]), float(origin[1])))
    finally:
        env.close()


def _draw_walls(axis: Any, maze: np.ndarray, unit: float, origin: tuple[float, float]) -> None:
    """The maze's map (1 is wall), its cell size in metres, and where its first cell's centre lies."""
    left, bottom = origin[0] - unit / 2, origin[1] - unit / 2
    extent = (left, left + unit * maze.shape[1], bottom, bottom + unit * maze.shape[0])
    axis.imshow(maze == 1, origin="lower", extent=extent, cmap="Greys", vmin=0, vmax=2)
