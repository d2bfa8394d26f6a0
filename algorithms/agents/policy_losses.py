"""Losses of Gaussian policies with unit variance, shared by several agents."""

import torch

from nfkern.algorithms.agents.networks import unit_gaussian_log_prob
from nfkern.algorithms.agents.optimization import LossAndInfo

# IQL's bound on the weight of an action.
MAX_WEIGHT = 100.0


def awr_loss(mean: torch.Tensor, actions: torch.Tensor, advantage: torch.Tensor, alpha: float) -> LossAndInfo:
    """Return the loss of advantage-weighted regression: actions count by exp(alpha * advantage).

    Source: Peng et al., "Advantage-Weighted Regression", 2019, https://arxiv.org/abs/1910.00177.

    Args:
        mean: the policy's mean, (batch, action_size).
        actions: the data's actions, (batch, action_size).
        advantage: advantage of the data's actions, (batch,), without a gradient.
        alpha: inverse temperature.
    """
    weight = (alpha * advantage).exp().clamp(max=MAX_WEIGHT)
    log_prob = unit_gaussian_log_prob(mean, actions)
    return -(weight * log_prob).mean(), {"advantage": advantage.mean(), "log_prob": log_prob.mean()}


def ddpg_bc_loss(mean: torch.Tensor, actions: torch.Tensor, q: torch.Tensor, alpha: float) -> LossAndInfo:
    """Return the loss of DDPG with behavioural cloning: the value of the policy's actions, and imitation of the data's.

    Source: Fujimoto and Gu, "A Minimalist Approach to Offline RL", 2021, https://arxiv.org/abs/2106.06860.

    Args:
        mean: the policy's mean, (batch, action_size).
        actions: the data's actions, (batch, action_size).
        q: value of the policy's mean, (batch,), with its gradient. The loss divides it by its mean absolute value, so
            that one weight of imitation suits values of any scale.
        alpha: weight of imitation (nats).
    """
    log_prob = unit_gaussian_log_prob(mean, actions).mean()
    loss = -q.mean() / (q.detach().abs().mean() + 1e-6) - alpha * log_prob
    return loss, {"q": q.mean(), "log_prob": log_prob}
