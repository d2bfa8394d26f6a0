"""Agents with known critics, and what their losses should then be."""

import torch

from support.small_agents import make_agent, make_batch

GAMMA, ROWS = 0.9, 64


class Fixed(torch.nn.Module):
    """A function in place of a trained network; its weight has a gradient that tells whether the loss reaches it."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, *inputs, frozen=False):
        return self.function(*inputs) * (self.weight.detach() if frozen else self.weight)


def two_critics(inputs):
    """Q of a state (3) and an action (2): the second critic is the lower one where the action leans left."""
    state, action = inputs[:, 0], inputs[:, 3:].sum(1)
    return torch.stack([state + action, state + 3 * action])


def target_critics(inputs):
    return two_critics(inputs) + torch.tensor([[0.5], [1.5]])


def prepare(name, **options):
    """An agent with known critics, a batch, and the numbers that its loss draws."""
    agent = make_agent(name, gamma=GAMMA, tau=0.01, **options)
    agent.networks["critic"] = Fixed(two_critics)
    agent.ema.module["critic"] = Fixed(target_critics)
    batch = agent.tensors(make_batch(agent.config, ROWS))
    return agent, batch, agent.draw(batch, torch.Generator().manual_seed(0))


def critics_at(states, actions, critics=two_critics):
    return critics(torch.cat([states, actions], 1))


def expected_critic_loss(batch, following):
    q = critics_at(batch["observations"], batch["actions"])
    target = batch["rewards"] + GAMMA * batch["masks"] * following
    return ((q[0] - target).square() + (q[1] - target).square()).mean() / 2


def expected_value_loss(batch, expectile, values, averages):
    """Row by row: the averages' own verdict on the target, then both squared errors."""
    here, following, goals = batch["observations"], batch["next_observations"], batch["goals"]
    now, before = values(here, goals), averages(here, goals)
    after = averages(following, goals)
    total = 0.0
    for row in range(len(here)):
        reward, discount = batch["rewards"][row], GAMMA * batch["masks"][row]
        lower = reward + discount * min(after[0, row], after[1, row])
        weight = expectile if lower >= (before[0, row] + before[1, row]) / 2 else 1 - expectile
        total += weight * sum((reward + discount * after[k, row] - now[k, row]) ** 2 for k in range(2))
    return total / len(here)


def reached_by(loss, agent):
    """The networks that a loss's gradient reaches."""
    agent.zero_grad()
    loss.backward(retain_graph=True)
    return {name.split(".")[1] for name, each in agent.named_parameters() if each.grad is not None and each.grad.any()}


def transitions_of(agent, batch):
    """The batch as `forward` hands it on."""
    seen = {}
    original = agent._losses
    agent._losses = lambda transitions, noise: seen.update(t=transitions) or original(transitions, noise)
    try:
        agent(batch, agent.draw(batch))
    finally:
        agent._losses = original
    return seen["t"]
