"""Calls with very many rows: memory is as much for each of them, and none is mapped anew by every call."""

import json
import subprocess
import sys

import pytest

ALONE = """
import json, resource, sys
import torch
import nfkern

torch.set_num_threads(1)
flow = nfkern.CouplingFlow(features=5, context_features=4, blocks=8, hidden=(8, 8))
wide = nfkern.CouplingFlow(features=40, context_features=4, blocks=2, hidden=(8, 8)).freeze()
x, contexts = torch.randn(250_000, 5), torch.randn(250_000, 4)
noise = torch.randn(250_000, 40)

@torch.no_grad()
def density(rows):
    flow.log_prob(x[:rows], contexts[0])

@torch.no_grad()
def frozen_samples(rows):
    wide.to_data(noise[:rows], contexts[:rows])

def gradients(rows):
    flow.zero_grad()
    flow.log_prob(x[:rows], contexts[:rows]).mean().backward()

def fresh_bytes(call, rows):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call(rows)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / rows

call, rows = globals()[sys.argv[1]], int(sys.argv[2])
print(json.dumps([fresh_bytes(call, rows) for _ in range(6)]))
"""


# More than 32 MiB each: states of blocks, 160 bytes a row, results, 160 bytes, projected contexts, 512 bytes.
@pytest.mark.parametrize(("call", "rows"), [("density", 250_000), ("frozen_samples", 250_000), ("gradients", 100_000)])
def test_calls_use_memory_that_earlier_ones_have_left(call, rows):
    done = subprocess.run([sys.executable, "-c", ALONE, call, str(rows)], capture_output=True, text=True, check=True)
    first, *_, last, again = json.loads(done.stdout)
    assert first > 20
    # A float or two a row are PyTorch's own.
    assert min(last, again) <= 12, (last, again)
