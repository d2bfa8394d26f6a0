"""Captured steps: on a CPU with a capture that only watches, and on a GPU where there is one."""

import csv

import pytest
import torch
from support.dataset_fixture import POINT_MAZE, point_maze_dir  # noqa: F401
from support.learners import double_precision, make_config, make_learner, states  # noqa: F401
from support.small_agents import IMITATORS, OFFLINE

from nfkern.algorithms.runs.settings import RunSettings
from nfkern.algorithms.training import cuda_graph
from nfkern.algorithms.training import offline as training
from nfkern.algorithms.training.learner import Learner
from nfkern.cli import commands as cli
from nfkern.errors import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Watch:
    """A capture that notes what happens and replays by calling."""

    def __init__(self):
        self.captured, self.replays = [], 0

    def __call__(self, step, generators):
        self.captured.append(generators)

        def replay():
            self.replays += 1
            return step()

        return replay


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize("name", [*IMITATORS, *OFFLINE])
def test_a_captured_step_is_the_step(name, seeds, double_precision):  # noqa: F811
    watch = Watch()
    agents, streams = make_learner(name, seeds, True, torch.float64)
    captured = Learner(agents, streams, captured=True, capture=watch)
    eager = Learner(*make_learner(name, seeds, True, torch.float64))
    for _ in range(12):
        for mine, theirs in _pairs(captured.update(), eager.update()):
            # The learning rate is float32 on the device: 6e-8 of each update.
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert watch.replays == 12 - cuda_graph.WARM_UP_STEPS
    (generators,) = watch.captured
    expected = {id(each.generator) for each in streams} | {id(each.samplers["train"].generator) for each in streams}
    assert {id(generator) for generator in generators} == expected
    captured.synchronise()
    eager.synchronise()
    for mine, theirs in zip(captured.agents, eager.agents, strict=True):
        for key, value in states(mine).items():
            torch.testing.assert_close(value, states(theirs)[key], rtol=1e-4, atol=1e-6, msg=key)
        assert mine.optimizer.state_dict()["param_groups"] == theirs.optimizer.state_dict()["param_groups"]


def _pairs(first, second):
    assert set(first) == set(second)
    return [(first[key], second[key]) for key in first]


def test_the_optimiser_reads_the_schedules_rate_from_the_device():
    seen = []
    agents, streams = make_learner("gaussian_bc", on_device=True)
    (agent,) = agents
    agent.optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append(dict(optimizer.param_groups[0])))
    learner = Learner(agents, streams, captured=True, capture=Watch())
    for _ in range(10):
        expected = learner.learning_rate
        learner.update()
        assert isinstance(seen[-1]["lr"], torch.Tensor)
        assert seen[-1]["lr"] == torch.tensor(expected)
        assert seen[-1]["capturable"]
        assert isinstance(agent.optimizer.param_groups[0]["lr"], float)
        assert not agent.optimizer.param_groups[0]["capturable"]
    # One number, whose value changes: a graph would not see another tensor.
    assert len({each["lr"].data_ptr() for each in seen}) == 1


def test_a_failed_step_leaves_the_optimiser_as_it_was():
    agents, streams = make_learner("gaussian_bc", on_device=True)
    learner = Learner(agents, streams, captured=True, capture=Watch())
    agents[0].optimizer.register_step_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learner.update()
    assert isinstance(agents[0].optimizer.param_groups[0]["lr"], float)


def test_capture_registers_generators_before_and_replays_after(monkeypatch):
    events = []

    class Graph:
        def register_generator_state(self, generator):
            events.append(generator)

        def replay(self):
            events.append("replay")

    class Capturing:
        def __init__(self, graph, stream):
            assert isinstance(graph, Graph)
            assert stream == "side of cuda:1"

        def __enter__(self):
            events.append("begin")

        def __exit__(self, *_):
            events.append("end")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(cuda_graph, "side_stream", "side of {}".format)
    monkeypatch.setattr(torch.cuda, "graph", Capturing)
    replay = cuda_graph.capture_cuda(lambda: events.append("step") or {"loss": 1}, ["a", "b"])
    assert events == ["a", "b", "begin", "step", "end"]
    assert replay() == replay() == {"loss": 1}
    assert events[5:] == ["replay", "replay"]


def test_when_steps_are_captured():
    default = RunSettings(POINT_MAZE)
    assert default.captures(CUDA, True)
    assert not default.captures(CUDA, False)
    assert not default.captures(CPU, True)
    assert not RunSettings(POINT_MAZE, no_cuda_graph=True).captures(CUDA, True)
    asked = RunSettings(POINT_MAZE, cuda_graph=True)
    assert asked.captures(CUDA, True)
    with pytest.raises(UserError, match="--cuda-graph needs a CUDA device, got cpu: leave it out"):
        asked.captures(CPU, True)
    with pytest.raises(UserError, match="cannot be captured"):
        asked.captures(CUDA, False)
    with pytest.raises(ValueError, match="at most one of cuda_graph and no_cuda_graph, got both"):
        RunSettings(POINT_MAZE, cuda_graph=True, no_cuda_graph=True)


def test_asking_for_a_graph_on_a_cpu_is_an_error(point_maze_dir, tmp_path, capsys):  # noqa: F811
    args = ["train", "nf_gcbc", "--env-name", POINT_MAZE, "--dataset-dir", str(point_maze_dir), "--device", "cpu"]
    assert cli.main([*args, "--run-dir", str(tmp_path / "run"), "--cuda-graph"]) == 2
    assert capsys.readouterr().err == "nfkern train nf_gcbc: --cuda-graph needs a CUDA device, got cpu: leave it out\n"
    assert not (tmp_path / "run").exists()


def run(data, folder, **options):
    settings = {"eval_episodes": 0, "log_interval": 5, "checkpoint_interval": 10, "quiet": True} | options
    return training.train(
        "nf_gcbc", make_config("nf_gcbc"), RunSettings(POINT_MAZE, run_dir=folder, dataset_dir=data, **settings)
    )


def outcome(run_dir):
    with open(run_dir / "train.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]
    last = sorted((run_dir / "checkpoints").iterdir())[-1]
    return rows, [(last / name).read_bytes() for name in ("agent.safetensors", "training.safetensors", "training.json")]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"seeds": "0,1"}], ids=["one", "seeds"])
def test_captured_runs_resume_exactly(options, point_maze_dir, tmp_path, monkeypatch):  # noqa: F811
    class StopError(Exception):
        pass

    def watched(stop_at):
        def capture(step, generators):
            left = [stop_at]

            def replay():
                left[0] -= 1
                if not left[0]:
                    raise StopError
                return step()

            return replay

        return capture

    monkeypatch.setattr(RunSettings, "captures", lambda *_: True)
    monkeypatch.setattr(cuda_graph, "capture_cuda", watched(10**6))
    straight = run(point_maze_dir, tmp_path / "straight", **options)
    monkeypatch.setattr(cuda_graph, "capture_cuda", watched(25))
    with pytest.raises(StopError):
        run(point_maze_dir, tmp_path / "broken", **options)
    monkeypatch.setattr(cuda_graph, "capture_cuda", watched(10**6))
    broken = run(point_maze_dir, tmp_path / "broken", resume=True, **options)
    for folder in ("seed-0", "seed-1") if options else (".",):
        assert outcome(broken / folder) == outcome(straight / folder)
    monkeypatch.undo()
    with pytest.raises(UserError, match="drew its batches elsewhere"):
        run(point_maze_dir, tmp_path / "broken", resume=True, **options)


@needs_cuda
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize("name", [*IMITATORS, *OFFLINE])
def test_on_a_gpu_replays_equal_eager_steps(name, seeds):
    captured = Learner(*make_learner(name, seeds, on_device=True, device="cuda"), captured=True)
    eager = Learner(*make_learner(name, seeds, on_device=True, device="cuda"))
    for _ in range(12):
        for mine, theirs in _pairs(captured.update(), eager.update()):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(captured.streams, eager.streams, strict=True):
        assert torch.equal(mine.generator.get_state(), theirs.generator.get_state())
        assert mine.samplers["train"].state_dict() == theirs.samplers["train"].state_dict()


@needs_cuda
def test_on_a_gpu_captured_runs_resume(point_maze_dir, tmp_path, monkeypatch):  # noqa: F811
    straight = run(point_maze_dir, tmp_path / "straight", device="cuda")
    update, left = Learner.update, [27]

    def dying(self):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", dying)
        with pytest.raises(KeyboardInterrupt):
            run(point_maze_dir, tmp_path / "broken", device="cuda")
    assert outcome(run(point_maze_dir, tmp_path / "broken", device="cuda", resume=True)) == outcome(straight)
