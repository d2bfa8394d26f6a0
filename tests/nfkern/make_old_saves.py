"""Make the folders of `old_saves/` with an earlier nfkern: `python tests/nfkern/make_old_saves.py NAME`.

Run it with that version on the path, a checkout of the commit in the folder's name. Each module is saved with random
weights, and its results beside it.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

import nfkern

FOLDER = Path(__file__).parent / "old_saves" / sys.argv[1]


def drawn(module):
    for name, parameter in module.named_parameters():
        if name != "mixing_lu":
            parameter.data += 0.2 * torch.randn_like(parameter)
    return module.double()


def main():
    torch.manual_seed(0)
    x, context = torch.randn(4, 3).double(), torch.randn(4, 2).double()
    flow = drawn(nfkern.CouplingFlow(3, 2, blocks=2, hidden=(4, 4)))
    modules = {"flow": (flow, (x, context)), "encoder": (drawn(nfkern.Encoder(3, 2, width=4, layers=2)), (x,))}
    modules["normalizer"] = (nfkern.Normalizer.fit(x, "min_max").double(), (x,))
    if hasattr(nfkern, "CausalFlow"):
        causal = drawn(nfkern.CausalFlow(3, 1, 2, blocks=2, layers=1, width=4))
        modules["causal"] = (causal, (x.unsqueeze(-1), context))
    results = {"x": x, "context": context}
    for name, (module, arguments) in modules.items():
        module.save_pretrained(FOLDER / name)
        with torch.no_grad():
            results[name] = module(*arguments)
    save_file({name: each.contiguous() for name, each in results.items()}, FOLDER / "results.safetensors")


if __name__ == "__main__":
    main()
