"""The search for faster launches, with a timer that is a formula."""

import pytest
import torch

pytest.importorskip("triton", reason="launches are Triton's")

from nfkern.bench.kernels import tune
from nfkern.errors import UserError
from nfkern.kernels.coupling.triton_launch import LAUNCHES, MANY, LaunchConfig


def slowness(launch):
    """Least at tile 64, chunks 32 and 128, 8 warps and 3 stages."""
    best = LaunchConfig(64, 32, 128, 8, 3)
    return 1e-5 * sum(
        max(getattr(launch, n) / getattr(best, n), getattr(best, n) / getattr(launch, n)) for n in vars(best)
    )


def test_the_search_walks_to_the_fastest():
    timed = []

    def seconds(launch):
        timed.append(launch)
        return slowness(launch)

    assert tune.search(LaunchConfig(16, 16, 32, 4), seconds, lambda launch: True) == LaunchConfig(64, 32, 128, 8, 3)
    assert len(timed) == len(set(timed))


def test_launches_over_budget_are_not_timed():
    def seconds(launch):
        assert launch.tile <= 32
        return slowness(launch)

    found = tune.search(LaunchConfig(16, 16, 32, 4), seconds, lambda launch: launch.tile <= 32)
    assert found == LaunchConfig(32, 32, 128, 8, 3)


def test_noise_moves_nothing():
    start = LaunchConfig(32, 32, 64, 4)
    assert tune.search(start, lambda launch: 1.0 if launch == start else 0.99, lambda launch: True) == start


def test_neighbours_stay_within_what_products_want():
    found = list(tune.neighbours(LaunchConfig(16, 16, 16, 16, 1)))
    assert found
    assert all(min(n.tile, n.chunk1, n.chunk2) >= 16 and n.warps <= 16 and n.stages >= 1 for n in found)


def test_launches_that_break_are_left_out(capsys):
    def seconds(launch):
        if launch.tile == 32:
            raise RuntimeError("out of shared memory\nand a trace")
        return slowness(launch)

    found = tune.search(LaunchConfig(16, 16, 32, 4), seconds, lambda launch: True)
    assert (found.tile, found.chunk1, found.chunk2) == (16, 32, 128)
    assert "RuntimeError: out of shared memory" in capsys.readouterr().out

    def broken(launch):
        raise RuntimeError

    start = LaunchConfig(16, 16, 32, 4)
    assert tune.search(start, broken, lambda launch: True) == start


def test_the_source_is_the_table():
    text = tune.source(LAUNCHES).partition("] = ")[2]
    assert eval(text, {"LaunchConfig": LaunchConfig, "MANY": MANY}) == LAUNCHES  # noqa: S307


def test_bad_arguments_are_named():
    with pytest.raises(UserError, match="--device: expected a device of PyTorch's such as cuda, got 'gpu'"):
        tune.Tune(device="gpu").run()
    with pytest.raises(UserError, match="--case: expected one of ogbench, .* got 'huge'"):
        tune.Tune(case="huge").run()
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="PyTorch finds none here.*`nfkern bench resources`"):
            tune.Tune().run()


def test_a_launch_is_put_in_and_taken_out():
    before, launch = dict(LAUNCHES), LaunchConfig(16, 16, 16, 1)
    with tune.launched("flow", "ieee", launch, 0):
        assert LAUNCHES["flow", "ieee"] == ((MANY, launch),)
    assert before == LAUNCHES
