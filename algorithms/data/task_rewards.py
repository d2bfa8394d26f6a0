"""A dataset relabelled for one task: rewards, and masks where its episodes would have ended."""

import re

import numpy as np

from nfkern.errors import UserError

from .transitions import TransitionDataset

# What relabelling reads of a dataset besides observations.
RELABEL_COLUMNS = ("qpos", "button_states")


def with_task_rewards(dataset: TransitionDataset, name: str) -> TransitionDataset:
    """The dataset with the rewards and masks of a single-task environment, by OGBench's own relabelling.

    Rewards are -1 until the task is done and 0 then (manipulation: minus the number of parts still to be done); a mask
    is 0 where it is done. Both speak of the state in which a transition starts.

    Args:
        dataset: loaded with `RELABEL_COLUMNS` among its extras.
        name: dataset or environment name with `singletask`.

    Raises:
        UserError: the name is none of a single task, or the file lacks a column.
    """
    if "singletask" not in name.split("-"):
        suggestion = re.sub(r"(-v\d+)$", r"-singletask-task1\1", name)
        raise UserError(
            f"expected the name of a single task, which has rewards, such as {suggestion}; got {name}, whose file has "
            "no rewards and masks either"
        )
    from ogbench.relabel_utils import relabel_dataset

    from nfkern.algorithms.envs.make import environment_id, make_environment

    environment = make_environment(name)
    columns: dict[str, np.ndarray] = dict(dataset.extras)
    try:
        environment.reset(seed=0)
        relabel_dataset(environment_id(name), environment, columns)
    except KeyError as error:
        raise UserError(f"{dataset.name} has no column {error}, from which the rewards of {name} follow") from None
    finally:
        environment.close()
    return dataset.with_rewards(columns["rewards"], columns["masks"])
