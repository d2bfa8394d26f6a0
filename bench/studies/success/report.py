"""The study as a part of a page that needs nothing else."""

from dataclasses import fields
from html import escape

from nfkern.bench.studies.drawing import embedded
from nfkern.bench.studies.reproduction import again, nearest
from nfkern.bench.studies.success import picture, tables
from nfkern.bench.studies.success.commands import DEFAULT, QUICK, Success
from nfkern.bench.studies.success.policies import POLICIES
from nfkern.bench.studies.success.records import COMMAND, Results
from nfkern.bench.studies.success.summary import summaries
from nfkern.page import table

TITLE = "Success beside cost"

_OPTIONS = {field.name for field in fields(Success)}
_PRESETS = {(): DEFAULT, ("--quick",): QUICK}

INTRODUCTION = (
    "Every policy learns from the same data with the same goals, batch size, learning rate and schedule, in as many "
    "gradient steps, by the loop of nfkern train. Success is the mean over the environment's tasks; its interval "
    "resamples tasks and training seeds. Seconds of training are gradient steps at the median speed of the training's "
    "log, with batches, logging and checkpoints and without evaluations. The time to a success is that of the first "
    "evaluation which has it, and there are only as many as the second table shows. An action is one call of act."
)


def body(results: Results) -> str:
    """All of it, below a heading of the second order."""
    found = summaries(results)
    names = [name for name in results.settings.policies if name not in results.skipped]
    legend = "".join(f"<li><b>{escape(name)}</b>: {escape(POLICIES[name].summary)}</li>" for name in names)
    skipped = "".join(f"<li>{escape(f'{name}: skipped, {why}')}</li>" for name, why in results.skipped.items())
    verdicts = "".join(f"<li>{escape(sentence)}</li>" for sentence in tables.verdicts(results))
    environments = "\n".join(
        f"<h3>{escape(env)}</h3>{table(*tables.of_environment(results, env))}{table(*tables.curves(results, env))}"
        for env in found
    )
    image = embedded(picture.success(results), "success against latency and training", picture.CAPTION) if found else ""
    return f"""<p>{escape(INTRODUCTION)}</p>
<p>{escape(tables.described(results))}</p>
<p>{_again(results)}</p>
{image}
<h3>Who is ahead</h3><ul>{verdicts}</ul>
<h3>Policies</h3><ul>{legend}{skipped}</ul>
{environments}"""


def is_quick(results: Results) -> bool:
    """Return whether the results are of `--quick`, which only tries the study out."""
    return nearest(_OPTIONS, results.settings, _PRESETS) == ("--quick",)


def _again(results: Results) -> str:
    return again(COMMAND, _OPTIONS, results.settings, _PRESETS, results.environment)
