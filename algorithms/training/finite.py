"""Checks on the way that a training's losses and weights are still finite numbers."""

import math
from collections.abc import Mapping

from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.runs.run import Run
from nfkern.errors import UserError


def check_finite(metrics: Mapping[str, float], step: int, run: Run) -> None:
    """Stop a training whose metrics are not finite.

    Raises:
        UserError: a metric is NaN or infinite.
    """
    wrong = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if wrong:
        raise UserError(_not_finite(", ".join(wrong), step, run))


def check_weights(agent: Agent, step: int, run: Run) -> None:
    """Stop a training whose weights are not finite.

    Raises:
        UserError: a weight is NaN or infinite.
    """
    for name, parameter in agent.named_parameters():
        if not parameter.isfinite().all():
            raise UserError(_not_finite(f"the weight {name} is not finite", step, run))


def _not_finite(problem: str, step: int, run: Run) -> str:
    # No checkpoint is written with weights that are not finite.
    found = run.checkpoints()
    newest = (
        f"the newest checkpoint that is finite is {found[-1].path}" if found else "there is no finite checkpoint yet"
    )
    return f"{run.path}: {problem} at step {step}; {newest}. A lower --learning-rate or --warmup-steps may help"
