"""Losses of Gaussian policies of unit variance, which several agents share."""

import torch

from nfkern.algorithms.agents.networks import unit_gaussian_log_prob
from nfkern.algorithms.agents.optimization import LossAndInfo

# IQL's bound on the weight of one action.
MAX_WEIGHT = 100.0


def awr_loss(mean: torch.Tensor, actions: torch.Tensor, advantage: torch.Tensor, alpha: float) -> LossAndInfo:
    """Regression on actions, weighted by exp(alpha * advantage).

    Args:
        mean: the policy's, (batch, action_size).
        actions: the data's, likewise.
        advantage: of the data's actions, (batch,), without a gradient.
        alpha: inverse temperature.
    """
    weight = (alpha * advantage).exp().clamp(max=MAX_WEIGHT)
    log_prob = unit_gaussian_log_prob(mean, actions)
    return -(weight * log_prob).mean(), {"advantage": advantage.mean(), "log_prob": log_prob.mean()}


def ddpg_bc_loss(mean: torch.Tensor, actions: torch.Tensor, q: torch.Tensor, alpha: float) -> LossAndInfo:
    """DDPG with behavioural cloning: the value of the policy's own actions, and imitation of the data's.

    Args:
        mean: the policy's, (batch, action_size).
        actions: the data's, likewise.
        q: value of the policy's mean, (batch,), with its gradient; divided by its size, so that one weight suits
            values of any scale.
        alpha: weight of imitation (nats).
    """
    log_prob = unit_gaussian_log_prob(mean, actions).mean()
    loss = -q.mean() / (q.detach().abs().mean() + 1e-6) - alpha * log_prob
    return loss, {"q": q.mean(), "log_prob": log_prob}
