"""SAC of skrl with a flow for a policy."""

import torch
from reach import Reach, mean_return
from skrl.agents.torch.sac import SAC, SAC_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from torch import nn

import nfkern


class Policy(Model):
    """A flow as skrl calls its policies."""

    def __init__(self, **spaces):
        super().__init__(**spaces)
        bounds = (self.action_space.low, self.action_space.high)
        flow = nfkern.CouplingFlow(self.num_actions, 64, blocks=2, hidden=(64, 64), bounds=bounds, scale_bound=2.0)
        self.head = nfkern.FlowHead(flow, nn.Sequential(nn.Linear(self.num_observations, 64), nn.SiLU()))

    def compute(self, inputs, role=""):
        """Return the distribution of actions."""
        return self.head(inputs["observations"])

    def act(self, inputs, *, role=""):
        """Return actions, their log-probability, and the deterministic ones for evaluation."""
        policy = self.compute(inputs)
        if "taken_actions" in inputs:
            actions, log_prob = inputs["taken_actions"], policy.log_prob(inputs["taken_actions"])
        else:
            actions, log_prob = policy.rsample_and_log_prob()
        return actions, {"log_prob": log_prob.unsqueeze(-1), "mean_actions": policy.deterministic_sample}


class Critic(DeterministicMixin, Model):
    """skrl's kind of critic."""

    def __init__(self, **spaces):
        Model.__init__(self, **spaces)
        DeterministicMixin.__init__(self)
        self.net = nn.Sequential(nn.Linear(self.num_observations + self.num_actions, 64), nn.SiLU(), nn.Linear(64, 1))

    def compute(self, inputs, role=""):
        """Return values of observations and actions."""
        return self.net(torch.cat([inputs["observations"], inputs["taken_actions"]], 1)), {}


torch.manual_seed(0)
torch.set_num_threads(1)
env = wrap_env(Reach())
spaces = {"observation_space": env.observation_space, "action_space": env.action_space, "device": "cpu"}
names = ("critic_1", "critic_2", "target_critic_1", "target_critic_2")
models = {"policy": Policy(**spaces)} | {name: Critic(**spaces) for name in names}
cfg = SAC_CFG(batch_size=128, learning_starts=200, random_timesteps=200, discount_factor=0.95, polyak=0.01)
cfg.experiment.write_interval = cfg.experiment.checkpoint_interval = 0
agent = SAC(models=models, memory=RandomMemory(memory_size=5000), cfg=cfg, **spaces)
trainer = {"timesteps": 2000, "headless": True, "disable_progressbar": True}
SequentialTrainer(env=env, agents=agent, cfg=trainer).train()
head = models["policy"].head
found = mean_return(lambda seen: head(torch.from_numpy(seen)).deterministic_sample.detach().numpy())
print(f"mean return {found:.2f}; at rest: -7.6")
assert found > -3
