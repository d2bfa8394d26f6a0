"""The paper's 82 tasks, and the scores that it and others published, in per cent.

Sources: [P] text and tables of Ghugare and Eysenbach, 2025 (https://arxiv.org/abs/2505.23527), [F] read off its figures
(about half a point), [O] OGBench's table (https://arxiv.org/abs/2410.20092), [Q] the FQL paper's tables
(https://arxiv.org/abs/2502.02538). A score of several tasks together is their mean.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Published scores for the tasks of one environment.

    Attributes:
        ours: score of the paper's algorithm.
        rivals: scores of other algorithms, by their names in the source.
        source: sources of all scores.
        by_task: scores of the paper's algorithm on each task alone, if the paper has them.
    """

    ours: float
    rivals: dict[str, float]
    source: str
    by_task: tuple[float, ...] = ()


def _conditional(ours: float, *rivals: float) -> Published:
    names = ("GCBC", "GCIVL", "GCIQL", "QRL", "CRL", "HIQL")
    return Published(ours, dict(zip(names, rivals, strict=True)), "[P] NF-GCBC, [O] all others; mean over five goals")


def _offline(ours: float, *rivals: float, by_task: tuple[float, ...] = (), note: str = "") -> Published:
    names = ("BC", "IQL", "ReBRAC", "IDQL", "IFQL", "FQL")
    source = "[P] NF-RLBC by task, [F] its mean, [Q] all others; mean over five tasks" + note
    return Published(ours, dict(zip(names, rivals, strict=True)), source, by_task)


def _imitation(ours: float, *rivals: float) -> Published:
    names = ("VQ-BeT", "Diffusion Policy-T", "Diffusion Policy-C", "BeT")
    return Published(ours, dict(zip(names, rivals, strict=True)), "[F] normalised score, rivals as in VQ-BeT")


def _unsupervised(ours: float, *rivals: float) -> Published:
    names = ("CRL min-max", "CRL uniform")
    return Published(ours, dict(zip(names, rivals, strict=True)), "[F] success after 1e8 environment steps")


IMITATION: dict[str, Published] = {
    "pusht": _imitation(82.7, 78, 74, 73, 39),
    "ur3": _imitation(96.8, 92, 91, 91.5, 79.5),
    "kitchen": _imitation(81.0, 91.5, 86, 65.5, 77),
    "ant": _imitation(77.5, 80.5, 72.5, 78, 68),
}
CONDITIONAL: dict[str, Published] = {
    "puzzle-3x3-play": _conditional(4.5, 2, 6, 95, 1, 3, 12),
    "cube-single-play": _conditional(79.5, 6, 53, 68, 5, 19, 15),
    "scene-play": _conditional(42.0, 5, 42, 51, 5, 19, 38),
    "cube-double-play": _conditional(35.1, 1, 36, 40, 1, 10, 6),
    "antmaze-medium-stitch": _conditional(56.6, 45, 44, 29, 59, 53, 94),
    "humanoidmaze-medium-navigate": _conditional(31.4, 8, 24, 27, 21, 60, 89),
    "antmaze-large-navigate": _conditional(32.0, 24, 16, 34, 75, 83, 91),
    "antsoccer-arena-navigate": _conditional(62.1, 5, 47, 50, 8, 23, 58),
    "antsoccer-arena-stitch": _conditional(64.3, 24, 21, 2, 1, 1, 15),
}
OFFLINE_RL: dict[str, Published] = {
    "puzzle-3x3-play": _offline(99, 2, 9, 21, 10, 19, 30, by_task=(99.6, 99.6, 97.6, 99.6, 99.6)),
    "scene-play": _offline(
        *(74, 5, 28, 41, 46, 30, 56),
        by_task=(100.0, 88.0, 98.8, 85.6, 0.0),
        note="; the order of the tasks is inferred",
    ),
    "antmaze-large-navigate": _offline(
        *(86, 11, 53, 81, 21, 28, 79),
        by_task=(76.4, 72.4, 92.4, 61.6, 60.8),
        note="; the mean of the paper's table is 73",
    ),
    "cube-single-play": _offline(90, 5, 83, 91, 95, 79, 96, note="; the four legible tasks of its table have 66"),
    "humanoidmaze-medium-navigate": _offline(12, 2, 33, 22, 1, 60, 58, by_task=(3.6, 18.8, 14.8, 1.6, 20.8)),
    "antsoccer-arena-navigate": _offline(50, 1, 8, 0, 12, 33, 60),
}
# The task of a name with "singletask" and no number, unless it is the first (FQL's README).
DEFAULT_TASKS = {"cube-single-play": 2, "scene-play": 2, "puzzle-3x3-play": 4, "antsoccer-arena-navigate": 4}
UNSUPERVISED: dict[str, Published] = {
    "ant-u-maze": _unsupervised(96, 0, 0),
    "ant-big-maze": _unsupervised(68, 31, 0),
    "ant-hardest-maze": _unsupervised(61, 25, 0),
}
