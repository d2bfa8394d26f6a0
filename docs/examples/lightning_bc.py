"""Imitation with a flow in Lightning, and the flow frozen for acting in the units of the data."""

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

import nfkern


class Imitation(lightning.LightningModule):
    """A flow and its encoder, trained on the density of actions."""

    def __init__(self, observed: nfkern.Normalizer, acted: nfkern.Normalizer) -> None:
        super().__init__()
        self.observed, self.acted = observed, acted  # their statistics are in the checkpoints
        flow = nfkern.CouplingFlow(2, 32, blocks=4, hidden=(64, 64), scale_bound=2.0)
        self.head = nfkern.FlowHead(flow, nfkern.Encoder(3, 32, width=64, layers=1))

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        """Negative log-density of actions, noised as the paper does."""
        seen, actions = self.observed(batch[0]), self.acted(batch[1])
        return -self.head(seen).log_prob(actions + 0.05 * torch.randn_like(actions)).mean()

    def validation_step(self, batch: list[torch.Tensor]) -> None:
        """Density of actions that were not trained on."""
        self.log("nats", self.head(self.observed(batch[0])).log_prob(self.acted(batch[1])).mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Weights decay, biases, norms and mixing do not."""
        groups = self.head.flow.parameter_groups(1e-4) + self.head.encoder.parameter_groups(1e-4)
        return torch.optim.AdamW(groups, lr=3e-3)


lightning.seed_everything(0, verbose=False)
torch.set_num_threads(1)
# Either of two actions is right: where the observation says, or opposite.
seen = 5 + torch.randn(6000, 3)
side = torch.randint(2, (6000, 1)) * 2 - 1
actions = 100 * side * torch.stack([seen[:, 0].sin() + 2, seen[:, 1].cos()], 1) + 5 * torch.randn(6000, 2)
model = Imitation(nfkern.Normalizer.fit(seen), nfkern.Normalizer.fit(actions))
train = DataLoader(TensorDataset(seen[:5000], actions[:5000]), 256, shuffle=True)
held_out = DataLoader(TensorDataset(seen[5000:], actions[5000:]), 1000)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = lightning.Trainer(max_epochs=15, accelerator="cpu", **quiet)
trainer.fit(model, train, held_out)
nats = trainer.callback_metrics["nats"].item()
print(f"density of actions held out: {nats:.2f} nats (the best Gaussian without context: -2.8)")
assert nats > 0

head = model.head.eval()
robot = head.flow.freeze(None, head.encoder, normalizer=model.observed, action_normalizer=model.acted)
chosen = np.stack([robot.act(seen[0].numpy(), 0.05) for _ in range(200)])
error = np.abs(np.abs(chosen[:, 0]) - np.abs(actions[0, 0].item()))
print(f"{(chosen[:, 0] > 0).mean():.0%} of actions on one side, {np.median(error):.0f} from the data's")
assert 0.2 < (chosen[:, 0] > 0).mean() < 0.8
assert np.median(error) < 30
