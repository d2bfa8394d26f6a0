"""SAC of Stable-Baselines3 with a flow for an actor: train, save, load, act."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reach import Reach, mean_return
from stable_baselines3 import SAC
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.sac.policies import Actor, SACPolicy

import nfkern


class FlowActor(Actor):
    """SB3's actor with a flow in the place of the Gaussian; SB3 scales its actions from [-1, 1] to the space."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        del self.mu, self.log_std
        size = get_action_dim(self.action_space)
        flow = nfkern.CouplingFlow(size, self.net_arch[-1], blocks=2, hidden=(64, 64), bounds="tanh", scale_bound=2.0)
        self.head = nfkern.FlowHead(flow, self.latent_pi)

    def forward(self, obs: torch.Tensor, deterministic: bool = False) -> torch.Tensor:
        """Actions (n, action size) for observations."""
        policy = self.head(self.extract_features(obs, self.features_extractor))
        return policy.deterministic_sample if deterministic else policy.sample()

    def action_log_prob(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions with gradients, and their log-probability, exact and from the same pass."""
        return self.head(self.extract_features(obs, self.features_extractor)).rsample_and_log_prob()


class FlowPolicy(SACPolicy):
    """SB3's policy of SAC with this actor."""

    def make_actor(self, features_extractor: Any = None) -> FlowActor:
        """Return the actor."""
        return FlowActor(**self._update_features_extractor(self.actor_kwargs, features_extractor)).to(self.device)


torch.set_num_threads(1)
options = {"learning_starts": 200, "learning_rate": 1e-3, "policy_kwargs": {"net_arch": [64, 64]}}
model = SAC(FlowPolicy, Reach(), seed=0, device="cpu", **options)
model.learn(1200)
with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder) / "model")
    loaded = SAC.load(Path(folder) / "model", env=Reach())
seen = np.array([0.5, -0.5], np.float32)
action, again = (each.predict(seen, deterministic=True)[0] for each in (model, loaded))
assert np.array_equal(action, again)
found = mean_return(lambda seen: loaded.predict(seen, deterministic=True)[0])
print(f"mean return {found:.2f}; at rest: -7.6")
assert found > -3
