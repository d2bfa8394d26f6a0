"""A script: forked processes compute on the CPU kernels, after threads of their parent have. Says "done"."""

import os
import signal
import time
import warnings

import torch

from nfkern.kernels import registered_backends
from nfkern.kernels.dispatch import native_extension
from support.coupling_problems import mapping, problem

# From Python 3.12 on, of every fork of a process with threads.
warnings.simplefilter("ignore", DeprecationWarning)
torch.set_num_threads(2)
x, term, matrices, parameters, settings = problem(rows=300, groups=60)
forward = (x, term, *matrices[False], parameters)
grads = (x, x[:, 0], torch.randn(2, *x.shape, dtype=x.dtype))
backward = (*grads, term, matrices[False][0], *parameters, 1e-5, None, None, True)


def compute():
    """A map and a derivative; that of the op, for autograd refuses to work in a fork where torch sees a GPU."""
    return [*mapping("to_latent", settings)(*forward), *torch.ops.nfkern.coupling_to_latent_backward(*backward)]


# Starts the threads that no child has.
expected = compute()


def right():
    return all(torch.allclose(a, e, rtol=1e-12, atol=1e-12) for a, e in zip(compute(), expected, strict=True))


def in_child(work):
    child = os.fork()
    if not child:
        os._exit(0 if work() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def kill_a_child_at_work():
    child = os.fork()
    if not child:
        while right():
            pass
    time.sleep(0.2)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


class Computed(torch.utils.data.Dataset):
    """Computes in the data loader's workers."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return compute()[0]


def main():
    assert registered_backends()["coupling_to_latent"] == "native"
    assert native_extension.threads_in_use() == 2, "threads"
    assert in_child(right), "a child"
    assert in_child(lambda: in_child(right)), "a child's child"
    assert right(), "the parent, afterwards"
    loader = torch.utils.data.DataLoader(Computed(), batch_size=1, num_workers=2, multiprocessing_context="fork")
    assert all(torch.allclose(batch[0], expected[0], rtol=1e-12, atol=1e-12) for batch in loader), "workers"
    assert kill_a_child_at_work(), "a child that was killed at work"
    assert right(), "its parent"
    print("done")


if __name__ == "__main__":
    main()
