"""Training with FlowAdamW and with torch.optim.AdamW; as a script, one of two processes that train together."""

import sys

import torch
from torch.nn.parallel import DistributedDataParallel

from nfkern.optim import FlowAdamW
from support import flows

OPTIONS = {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-7, "weight_decay": 0.1}
ROWS, STEPS = 8, 6


def theirs(flow, others):
    return torch.optim.AdamW([*flow.parameters(), *others], **OPTIONS)


def ours(flow, others):
    return FlowAdamW(flow, others, **OPTIONS)


def loss_of(flow, encoder, step, rows=slice(None)):
    """The mean over rows of the step's batch."""
    generator = torch.Generator().manual_seed(step)
    x, context = (torch.randn(ROWS, size, generator=generator, dtype=torch.float64) for size in (flow.features, 5))
    return -flow(x[rows], encoder(context[rows])).mean()


def trained(make, loop, prepare=lambda flow, optimizer: None, name="paper"):
    """Parameters of a flow and an encoder after some steps of `loop(flow, encoder, optimizer, step)`."""
    flow, encoder = flows.make_flow(name), torch.nn.Linear(5, 5).double()
    optimizer = make(flow, encoder.parameters())
    prepare(flow, optimizer)
    for step in range(STEPS):
        loop(flow, encoder, optimizer, step)
    return {**dict(flow.named_parameters()), **dict(encoder.named_parameters())}


class Loss(torch.nn.Module):
    """`loss_of` on one process's rows."""

    def __init__(self, flow, encoder, rows):
        super().__init__()
        self.flow, self.encoder, self.rows = flow, encoder, rows

    def forward(self, step):
        return loss_of(self.flow, self.encoder, step, self.rows)


def main(rank, folder):
    """Train on half of each batch and leave the parameters in `folder`."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    rows, losses = slice(rank * ROWS // 2, (rank + 1) * ROWS // 2), []

    def loop(flow, encoder, optimizer, step):
        if not losses:
            losses.append(DistributedDataParallel(Loss(flow, encoder, rows)))
        optimizer.zero_grad()
        losses[0](step).backward()
        optimizer.step()

    found = {name: parameter.detach() for name, parameter in trained(ours, loop).items()}
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
