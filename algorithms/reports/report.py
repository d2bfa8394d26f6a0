"""`nfkern report`: one self-contained page about trained runs."""

import base64
import datetime
import io
import sys
from dataclasses import dataclass
from html import escape
from itertools import combinations
from pathlib import Path

import numpy as np
import tyro

import nfkern
from nfkern.algorithms.data.files import dataset_file
from nfkern.algorithms.data.manifest import Manifest, sha256_of
from nfkern.algorithms.evaluation.result import stack_outcomes
from nfkern.algorithms.evaluation.statistics import paired_comparison, success_interval
from nfkern.algorithms.reports.groups import EvaluatedRun, Group, group_runs
from nfkern.errors import UserError
from nfkern.host.packages import install_command
from nfkern.page import page, table


@dataclass(frozen=True)
class Report:
    """Write one HTML page about runs: success with intervals, learning curves, actions, paths in the maze, settings.

    The page needs no network. Runs that differ only in their seed count as one group. Evaluations come from
    `nfkern train` and `nfkern eval`; paths need `nfkern eval --trajectories`.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories."""
    out: Path = Path("report.html")
    """The page."""
    dataset_dir: Path | None = None
    """The folder of the dataset, for the states at which actions are drawn; default the one of the runs' training."""

    def run(self) -> int:
        """Write the page; the exit code."""
        if not self.runs:
            raise UserError("expected at least one run directory")
        if self.out.is_dir():
            raise UserError(f"--out: expected a file, got the folder {self.out}")
        groups = group_runs([EvaluatedRun.open(path) for path in self.runs])
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(to_html(groups, self.dataset_dir))
        print(self.out)
        return 0


def to_html(groups: list[Group], dataset_dir: Path | None = None) -> str:
    """The page; without a folder, each environment's data are those of its first run."""
    sections = []
    for env_name in dict.fromkeys(group.env_name for group in groups):
        here = [group for group in groups if group.env_name == env_name]
        sections.append(f"<h2>{escape(env_name)}</h2>")
        folder = dataset_dir or here[0].first.dataset_dir
        sections += [_success(here), _provenance(here, folder), *_pictures(here, folder)]
    sections += ["<h2>Settings</h2>", _settings(groups), "<h2>Runs</h2>", _runs(groups)]
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return page("nfkern: trained policies", "\n".join(sections), f"nfkern {nfkern.__version__}, {now}")


def _success(groups: list[Group]) -> str:
    if not groups[0].evaluations:
        missing = ", ".join(str(each.run.path) for group in groups for each in group.members)
        text = f"The newest checkpoints of these runs have no evaluation in common: nfkern eval {missing}"
        return f"<p>{escape(text)}</p>"
    first = groups[0].evaluations[0]
    names = [f"goal {task}" for task in first.task_names]
    rows = []
    for group in groups:
        outcomes = stack_outcomes(group.evaluations)
        low, high = success_interval(outcomes)
        per_goal = [f"{rate:.0%}" for rate in outcomes.mean((0, 2))]
        scores = [result.score for result in group.evaluations if result.score is not None]
        score = [f"{np.mean(scores):.1%}"] if scores else []
        rows.append(
            [group.label, str(len(outcomes)), f"{outcomes.mean():.1%}", f"{low:.0%} - {high:.0%}", *score, *per_goal]
        )
    episodes = first.settings.episodes_per_task
    note = (
        f"{episodes} episodes for each goal and training seed, the same starts for all. The interval (95%) resamples "
        "whole goals and training seeds: within one goal nearly all episodes end alike, so an interval over single "
        "episodes would be far too narrow."
    )
    score = [] if first.score is None else ["score (share done)"]
    head = ["policy", "seeds", "success", "interval", *score, *names]
    return f"{table(head, rows)}<p>{note}</p>{_verdicts(groups)}"


def _verdicts(groups: list[Group]) -> str:
    """Return a sentence for each pair; it names an order only where the interval and McNemar's test agree."""
    sentences = []
    for first, second in combinations(groups, 2):
        outcomes = [stack_outcomes(group.evaluations) for group in (first, second)]
        if outcomes[0].shape != outcomes[1].shape or outcomes[0].shape[:2] == (1, 1):
            continue
        result = paired_comparison(*outcomes)
        low, high = result.interval
        verdict = "these data do not tell which is better"
        if result.decided:
            verdict = f"{(first if result.difference > 0 else second).label} is ahead"
        if len(first.members) == 1:
            verdict += " (one training seed each: two policies are compared, not two algorithms)"
        sentences.append(
            f"<li>{escape(first.label)} minus {escape(second.label)}: {result.difference:+.1%}, interval {low:+.0%} to "
            f"{high:+.0%}, exact McNemar p = {result.p_value:.2g}: {escape(verdict)}.</li>"
        )
    return f"<ul>{''.join(sentences)}</ul>" if sentences else ""


def _provenance(groups: list[Group], dataset_dir: Path) -> str:
    file = dataset_file(groups[0].env_name, dataset_dir)
    manifest = Manifest.read(file.with_suffix(".json"))
    digests = {group.first.header.get("dataset") for group in groups}
    # In older runs, data without a manifest have no digest.
    if digests != {sha256_of(file) if file.exists() else None} and digests != {None}:
        return "<p>The data that these runs were trained on are not those in the dataset folder.</p>"
    if manifest is None:
        return "<p>Data: of unknown origin (their folder holds no manifest of them).</p>"
    parts, parameters = [f"Data: {manifest.origin}"], manifest.parameters
    if recipe := parameters.get("recipe"):
        parts.append(
            f"with seed {parameters['seed']}: {parameters['train_episodes']} training and "
            f"{parameters['val_episodes']} validation episodes of {recipe['episode_rows'] - 1} transitions"
        )
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    return f"<p>{escape(' '.join(parts))} ({escape(versions)}). {escape(manifest.note)}</p>"


def _pictures(groups: list[Group], dataset_dir: Path) -> list[str]:
    try:
        from nfkern.algorithms.reports import figures
    except ModuleNotFoundError as error:
        command = escape(install_command(error.name or ""))
        return [f"<p>No pictures: the package {error.name} is missing (<code>{command}</code>).</p>"]
    parts = []
    losses = "Training and validation loss (each algorithm's own: not comparable) and success."
    coloured = "Paths of the first episodes for each goal: green succeeds, red does not."
    for name, caption, draw in (
        ("losses", losses, figures.learning_curves),
        ("sampled actions", figures.ACTIONS_CAPTION, lambda these: figures.action_distributions(these, dataset_dir)),
        ("paths", coloured, figures.paths),
    ):
        try:
            figure = draw(groups)
        except UserError as error:
            left_out = f"the figure of {name} is left out: {error}"
            print(left_out, file=sys.stderr)
            parts.append(f"<p>{escape(left_out[:1].upper() + left_out[1:])}</p>")
            continue
        if figure is not None:
            image = io.BytesIO()
            figure.savefig(image, format="png")
            data = base64.b64encode(image.getvalue()).decode()
            parts.append(
                f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
    return parts


def _settings(groups: list[Group]) -> str:
    keys = list(dict.fromkeys(key for group in groups for key in group.first.header["config"]))
    rows = [[key, *(str(group.first.header["config"].get(key, "")) for group in groups)] for key in keys]
    several = len({group.env_name for group in groups}) > 1
    return table(["setting", *(f"{g.label} on {g.env_name}" if several else g.label for g in groups)], rows)


def _runs(groups: list[Group]) -> str:
    rows = []
    for group in groups:
        for each in group.members:
            versions = ", ".join(f"{name} {version}" for name, version in each.run.header["versions"].items())
            rows.append([str(each.run.path), str(each.run.seed), str(each.checkpoint.step), versions])
    return table(["run", "seed", "step", "versions"], rows)
