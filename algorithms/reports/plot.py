"""Figures of trained runs, as `nfkern.plot`: those of `nfkern report`, for a notebook or a paper. Needs matplotlib."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from nfkern.algorithms.reports import figures
from nfkern.algorithms.reports.groups import EvaluatedRun, Group, group_runs
from nfkern.errors import UserError

Runs = str | Path | Sequence[str | Path]


def success(runs: Runs, path: str | Path | None = None) -> Figure:
    """Draw the success of runs, those that differ only in their seed together, with 95 % intervals.

    What is drawn is the longest evaluation that all runs on an environment have in common (`nfkern eval` makes more).
    An interval is of `success_interval`: over seeds and goals.

    Args:
        runs: a run's folder, or several.
        path: file to write, such as figure.pdf; its suffix decides the format.

    Returns:
        The figure, which a notebook shows.

    Raises:
        UserError: a folder is no run, or the runs have no evaluation in common.
    """
    return _drawn(figures.success, runs, path, "the runs have no evaluation in common: `nfkern eval` makes one for all")


def learning_curves(runs: Runs, path: str | Path | None = None) -> Figure:
    """Draw the losses of runs over gradient steps, and success where it was measured more than once.

    Arguments, result and errors as of `success`.
    """
    return _drawn(figures.learning_curves, runs, path, "")


def actions(runs: Runs, path: str | Path | None = None) -> Figure:
    """Draw actions that policies sample at four states of the validation data, where the first is most two-sided.

    Arguments, result and errors as of `success`; the data are looked up where the first run's training found them.
    """

    def draw(groups: Sequence[Group]) -> Figure | None:
        return figures.action_distributions(groups, groups[0].first.dataset_dir)

    return _drawn(draw, runs, path, "expected actions of at least two dimensions")


def paths(runs: Runs, path: str | Path | None = None) -> Figure:
    """Draw the paths of evaluated episodes in a maze: green succeeds, red does not.

    Arguments, result and errors as of `success`.
    """
    return _drawn(figures.paths, runs, path, "the runs have no paths: `nfkern eval --trajectories` records them")


def _drawn(
    draw: Callable[[Sequence[Group]], Figure | None], runs: Runs, path: str | Path | None, missing: str
) -> Figure:
    folders = [runs] if isinstance(runs, str | Path) else list(runs)
    if not folders:
        raise UserError("runs: expected at least one folder, got none")
    figure = draw(group_runs([EvaluatedRun.open(Path(folder)) for folder in folders]))
    if figure is None:
        raise UserError(missing)
    if path is not None:
        kind = Path(path).suffix[1:]
        if kind not in (known := figure.canvas.get_supported_filetypes()):
            raise UserError(f"path: expected a name that ends in one of {', '.join(known)}, got {path}")
        figure.savefig(path)
    return figure
