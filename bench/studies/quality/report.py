"""The study as a part of a page that needs nothing else."""

from dataclasses import fields
from html import escape

from nfkern.bench.studies.drawing import embedded
from nfkern.bench.studies.quality import picture, tables
from nfkern.bench.studies.quality.commands import DEFAULT, QUICK, Quality
from nfkern.bench.studies.quality.policies import POLICIES
from nfkern.bench.studies.quality.records import COMMAND, Results
from nfkern.bench.studies.quality.shapes import DENSITIES
from nfkern.bench.studies.quality.summary import summaries
from nfkern.bench.studies.reproduction import again, nearest
from nfkern.page import table

TITLE = "Quality beside speed"

_OPTIONS = {field.name for field in fields(Quality)}
_PRESETS = {(): DEFAULT, ("--quick",): QUICK}

INTRODUCTION = (
    "Every policy learns the same conditional densities from the same batches, in as many steps, with the same "
    "optimiser (AdamW), schedule (warm-up, cosine) and average of the weights. Depths and proportions are each "
    "algorithm's own, and widths give the networks that act as many parameters. The learning rate is each policy's "
    "best of one grid by its own held-out loss. Three densities are Gaussians or mixtures of them, gaussians_25 "
    "exactly as a mixture density network has them: it is at home there."
)


def body(results: Results) -> str:
    """All of it, below a heading of the second order."""
    found = summaries(results)
    latency = embedded(picture.pareto(results), "quality against latency", picture.CAPTION)
    training = embedded(
        picture.pareto(results, picture.TRAINING), "quality against training time", picture.TRAINING_CAPTION
    )
    sections = "\n".join(
        f"<h3>{escape(name)}</h3><p>{escape(DENSITIES[name].summary)}</p>{table(*tables.of_density(rows))}"
        for name, rows in found.items()
    )
    names = [name for name in results.settings.policies if name not in results.skipped]
    legend = "".join(f"<li><b>{escape(name)}</b>: {escape(POLICIES[name].summary)}</li>" for name in names)
    skipped = "".join(f"<li>{escape(f'{name}: skipped, {why}')}</li>" for name, why in results.skipped.items())
    verdicts = "".join(f"<li>{escape(sentence)}</li>" for sentence in tables.verdicts(results))
    return f"""<p>{escape(INTRODUCTION)}</p>
<p>{escape(tables.described(results))}</p>
<p>{_again(results)}</p>
{latency}
{training}
<h3>Who is ahead</h3><ul>{verdicts}</ul>
<h3>Policies</h3><ul>{legend}{skipped}</ul>
<h3>Time of act for 1 and 256 observations, and CPU time of training</h3>{table(*tables.costs(results))}
{sections}"""


def is_quick(results: Results) -> bool:
    """Return whether the results are of `--quick`, which only tries the study out."""
    return nearest(_OPTIONS, results.settings, _PRESETS) == ("--quick",)


def _again(results: Results) -> str:
    return again(COMMAND, _OPTIONS, results.settings, _PRESETS, results.environment)
