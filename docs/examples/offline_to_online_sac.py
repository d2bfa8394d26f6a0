"""SAC in one file: a flow imitates old data, then learns online. Both use the same exact log-probability."""

import copy

import numpy as np
import torch
from reach import Reach, mean_return
from torch import nn

import nfkern

torch.manual_seed(0)
torch.set_num_threads(1)
env, rows, gamma, target_entropy = Reach(), [], 0.95, -4.0
box = (env.action_space.low, env.action_space.high)
flow = nfkern.CouplingFlow(2, 64, blocks=2, hidden=(64, 64), scale_bound=2.0, bounds=box)
actor = nfkern.FlowHead(flow, nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64)))
critics = nn.ModuleList(nn.Sequential(nn.Linear(4, 64), nn.SiLU(), nn.Linear(64, 1)) for _ in range(2))
targets, log_alpha = copy.deepcopy(critics).requires_grad_(False), torch.tensor(-2.0, requires_grad=True)
optimizer = torch.optim.Adam([*actor.parameters(), *critics.parameters(), log_alpha], 1e-3)


def values(networks, observations, actions):
    """Values of both critics, (2, n)."""
    return torch.cat([each(torch.cat([observations, actions], 1)) for each in networks], 1).T


def play(act):
    """Play an episode, and keep its rows."""
    seen, done = env.reset()[0], False
    while not done:
        action = act(seen).astype(np.float32)
        following, reward, _, done, _ = env.step(action)
        rows.append((seen, action, np.float32(reward), following))
        seen = following


def update(imitate):
    """Take a gradient step on a batch, in which the actor imitates or follows the critics."""
    batch = zip(*(rows[i] for i in torch.randint(len(rows), (128,)).tolist()), strict=True)
    seen, action, reward, following = (torch.from_numpy(np.stack(part)) for part in batch)
    alpha = log_alpha.exp().detach()
    with torch.no_grad():
        after, log_prob = actor(following).rsample_and_log_prob()
        target = reward + gamma * (values(targets, following, after).amin(0) - alpha * log_prob)
    loss = (values(critics, seen, action) - target).square().mean()
    if imitate:
        loss = loss - actor(seen).log_prob(action).mean()
    else:
        sampled, log_prob = actor(seen).rsample_and_log_prob()
        loss = loss + (alpha * log_prob - values(targets, seen, sampled).amin(0)).mean()
        loss = loss - log_alpha * (log_prob.detach() + target_entropy).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for mine, theirs in zip(critics.parameters(), targets.parameters(), strict=True):
        theirs.lerp_(mine.detach(), 0.01)


def policy(seen):
    """Sample an action."""
    return actor(torch.from_numpy(seen)).sample().numpy()


env.reset(seed=0)
for _ in range(100):  # data of someone slow and clumsy
    play(lambda seen: np.clip(-0.2 * seen + 0.1 * env.np_random.normal(size=2), -0.5, 0.5))
for _ in range(400):
    update(imitate=True)
imitated = mean_return(policy)
for step in range(800):
    if step % 8 == 0:
        play(policy)
    update(imitate=False)
found = mean_return(policy)
print(f"mean return: {imitated:.2f} after imitation, {found:.2f} after learning online")
assert found > imitated + 1
