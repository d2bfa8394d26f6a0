"""The report: one page, nothing from outside, the numbers of the runs, and honest words about them."""

import base64
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from support.dataset_fixture import POINT_MAZE, point_maze_dir  # noqa: F401

from nfkern.algorithms.agents.registry import AGENTS
from nfkern.algorithms.commands.evaluate import Evaluate
from nfkern.algorithms.evaluation.result import EvaluationResult, EvaluationSettings
from nfkern.algorithms.evaluation.rollout import Episode
from nfkern.algorithms.reports.groups import EvaluatedRun, group_runs
from nfkern.algorithms.reports.report import Report, _success
from nfkern.algorithms.runs.evaluations import load_trajectories
from nfkern.algorithms.runs.run import Run
from nfkern.algorithms.runs.settings import RunSettings
from nfkern.algorithms.training.offline import train
from nfkern.errors import UserError

SMALL = {
    "nf_gcbc": {"blocks": 2, "hidden": (8, 8), "representation": 4, "encoder_width": 8},
    "gaussian_gcbc": {"hidden": (8,)},
}


@pytest.fixture(scope="module")
def runs(point_maze_dir, tmp_path_factory):  # noqa: F811
    """Two seeds of two policies, evaluated for a few steps."""
    folder = tmp_path_factory.mktemp("runs")
    paths = []
    for name, small in SMALL.items():
        for seed in (0, 1):
            config = AGENTS[name].config_class(**small, steps=6, batch_size=8)
            settings = RunSettings(
                POINT_MAZE,
                seed=seed,
                run_dir=folder / f"{name}-{seed}",
                dataset_dir=point_maze_dir,
                eval_episodes=0,
                log_interval=2,
                quiet=True,
            )
            paths.append(train(name, config, settings))
    Evaluate(tuple(paths), episodes_per_task=2, max_episode_steps=15, trajectories=True).run()
    return paths


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.images, self.scripts = [], [], 0

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[key] for key in ("href", "src", "srcset") if key in attributes]
        self.images += [attributes["src"]] if tag == "img" else []
        self.scripts += tag in ("script", "link", "iframe")


@pytest.mark.slow
def test_the_page_is_whole(runs, point_maze_dir, tmp_path, capsys):  # noqa: F811
    page = tmp_path / "deep" / "report.html"
    # The runs know where their data lie.
    assert Report(tuple(runs), out=page).run() == 0
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.scripts == 0
    assert all(link.startswith("data:image/png;base64,") for link in tags.links)
    assert len(tags.images) == 3
    for image in tags.images:
        assert base64.b64decode(image.split(",")[1]).startswith(b"\x89PNG")
    success, other = (group_runs([EvaluatedRun.open(path)])[0].evaluations[0].success_rate for path in runs[:2])
    row = re.search(r"<tr><td>nf_gcbc</td><td>(\d)</td><td>([\d.]+)%</td>", text)
    assert row.groups() == ("2", f"{50 * (success + other):.1f}")
    assert "nf_gcbc minus gaussian_gcbc" in text
    assert "Data: generated with seed 0: 10 training" in text
    assert "<td>encoder_width</td><td>8</td><td></td>" in text


@pytest.mark.slow
def test_runs_are_grouped_by_everything_but_the_seed(runs):
    # Naming a run twice makes no second seed of it.
    groups = group_runs([EvaluatedRun.open(path) for path in [*runs, runs[0]]])
    assert [(group.label, len(group.members)) for group in groups] == [("nf_gcbc", 2), ("gaussian_gcbc", 2)]


@pytest.mark.slow
def test_a_page_without_evaluations_or_data_says_so(point_maze_dir, tmp_path, capsys):  # noqa: F811
    config = AGENTS["gaussian_gcbc"].config_class(hidden=(8,), steps=2, batch_size=8)
    settings = RunSettings(
        POINT_MAZE, run_dir=tmp_path / "run", dataset_dir=point_maze_dir, eval_episodes=0, log_interval=1, quiet=True
    )
    run = train("gaussian_gcbc", config, settings)
    assert Report((run,), out=tmp_path / "page.html", dataset_dir=tmp_path).run() == 0
    text = (tmp_path / "page.html").read_text()
    assert "have no evaluation in common: nfkern eval" in text
    assert "The figure of sampled actions is left out: there is no dataset file" in text
    assert "the figure of sampled actions is left out: there is no dataset file" in capsys.readouterr().err
    (tmp_path / f"{POINT_MAZE}.json").write_text("[]")
    with pytest.raises(UserError, match="is no manifest of a dataset"):
        Report((run,), out=tmp_path / "page.html", dataset_dir=tmp_path).run()


def test_paths_belong_to_their_evaluation(runs, tmp_path):
    (path,) = Run(runs[0]).evaluations.files()
    result = EvaluationResult.load(path)
    assert load_trajectories(path, result)["successes"].shape == (10,)
    other = tmp_path / path.name
    shutil.copy(path.with_suffix(".npz"), other.with_suffix(".npz"))
    assert load_trajectories(other, replace(result, episodes=result.episodes[:5])) is None
    longer = tuple(replace(episode, length=episode.length + 1) for episode in result.episodes)
    assert load_trajectories(other, replace(result, episodes=longer)) is None


@pytest.mark.slow
def test_only_evaluations_on_the_same_starts_are_compared(runs, point_maze_dir, tmp_path):  # noqa: F811
    Evaluate((runs[0],), episodes_per_task=3, max_episode_steps=10, seed=7).run()
    everything = group_runs([EvaluatedRun.open(path) for path in runs])
    assert {result.settings.seed for group in everything for result in group.evaluations} == {0}
    alone = group_runs([EvaluatedRun.open(runs[0])])
    assert alone[0].evaluations[0].settings.episodes_per_task == 3
    shutil.copytree(runs[2], tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "evaluations")
    Evaluate((tmp_path / "other",), episodes_per_task=2, max_episode_steps=10, seed=3).run()
    Report((runs[0], tmp_path / "other"), out=tmp_path / "page.html", dataset_dir=point_maze_dir).run()
    text = (tmp_path / "page.html").read_text()
    assert "have no evaluation in common" in text
    assert "minus" not in text


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match="is no run: expected a folder with config.json"):
        Report((tmp_path,)).run()
    with pytest.raises(UserError, match="expected at least one run directory"):
        Report(()).run()


def test_a_task_with_stages_has_its_score_in_the_table():
    def evaluated(scores):
        settings = EvaluationSettings("pusht-human-v0", (1,), len(scores), seed=0, block_size=2)
        episodes = [Episode(1, k, k, score == 1, 0.0, 5, score=score) for k, score in enumerate(scores)]
        return EvaluationResult(settings, tuple(episodes), {1: "task1"})

    class Group:
        label, runs, evaluations = "nf_bc", [None, None], [evaluated([0.5, 1.0]), evaluated([0.25, 0.75])]

    html = _success([Group])
    assert "score (share done)" in html
    # Success of one episode in four, and the mean of four scores.
    assert "25.0%" in html
    assert "62.5%" in html
    Group.evaluations = [evaluated([None, None])]
    assert "score" not in _success([Group])
