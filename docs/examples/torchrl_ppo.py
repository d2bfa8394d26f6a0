"""Imitation and then PPO of TorchRL with one flow: first the density of demonstrations, then ClipPPOLoss on rewards."""

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import MLP, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss

import nfkern

torch.manual_seed(0)
torch.set_num_threads(1)
flow = nfkern.CouplingFlow(2, 64, blocks=4, hidden=(64, 64), scale_bound=2.0)
actor = ProbabilisticActor(
    TensorDictModule(MLP(3, 64, num_cells=[64]), ["observation"], ["context"]),
    in_keys=["context"],
    distribution_class=nfkern.FlowHead(flow),  # a module: its parameters are the actor's
    return_log_prob=True,
)


def play(rows: int, exploration: ExplorationType) -> TensorDict:
    """Actions for random observations, and their rewards: actions of length 1 are good, those to the right better."""
    with torch.no_grad(), set_exploration_type(exploration):
        data = actor(TensorDict({"observation": torch.rand(rows, 3)}, [rows]))
    right, length = data["action"][:, :1].clamp(-1, 1), data["action"].norm(dim=1, keepdim=True)
    data["reward"] = right - 2 * (length - 1).abs()
    return data


# Imitation: demonstrations go round the whole circle, which no Gaussian can.
optimizer = torch.optim.Adam(actor.parameters(), 2e-3)
for _ in range(600):
    angle = torch.rand(256) * 2 * torch.pi
    actions = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(256, 2)
    loss = -actor.get_dist(TensorDict({"observation": torch.rand(256, 3)}, [256])).log_prob(actions).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
imitated = play(2000, ExplorationType.RANDOM)
print(f"density of demonstrations {-loss:.2f} nats (the best Gaussian: -2.15)")
assert -loss > -1.7

critic = ValueOperator(MLP(3, 1, num_cells=[64]), in_keys=["observation"])
ppo = ClipPPOLoss(actor, critic, entropy_coeff=0.01)  # it estimates the flow's entropy from samples
optimizer = torch.optim.Adam(ppo.parameters(), 1e-3)
for _ in range(30):
    data = play(512, ExplorationType.RANDOM)
    data["value_target"] = data["reward"]
    data["advantage"] = data["reward"] - data["reward"].mean()
    for _ in range(5):
        losses = ppo(data)
        optimizer.zero_grad()
        (losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]).backward()
        optimizer.step()
before, after = imitated["reward"].mean().item(), play(2000, ExplorationType.RANDOM)["reward"].mean().item()
print(f"mean reward of samples: {before:.2f} after imitation, {after:.2f} after PPO")
assert after > before + 0.3
