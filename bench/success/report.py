"""The study as one HTML page that needs nothing else."""

from html import escape

from nfkern.bench.studies.drawing import embedded
from nfkern.bench.success import picture, tables
from nfkern.bench.success.policies import POLICIES
from nfkern.bench.success.records import Results
from nfkern.bench.success.summary import summaries
from nfkern.page import page, table

TITLE = "Success beside cost"

INTRODUCTION = (
    "Every policy learns from the same data with the same goals, batch size, learning rate and schedule, in as many "
    "gradient steps, by the loop of nfkern train. Success is the mean over the environment's tasks; its interval "
    "resamples tasks and training seeds. Seconds of training are gradient steps at the median speed of the training's "
    "log, with batches, logging and checkpoints and without evaluations. The time to a success is that of the first "
    "evaluation which has it, and there are only as many as the second table shows. An action is one call of act."
)


def to_html(results: Results) -> str:
    """The page."""
    return page(TITLE, body(results, "h2"), f"{len(results.evaluations)} evaluations, started {results.started}")


def body(results: Results, heading: str) -> str:
    """All of the page, its headings in elements of this name."""
    found = summaries(results)
    names = [name for name in results.settings.policies if name not in results.skipped]
    legend = "".join(f"<li><b>{escape(name)}</b>: {escape(POLICIES[name].summary)}</li>" for name in names)
    skipped = "".join(f"<li>{escape(f'{name}: skipped, {why}')}</li>" for name, why in results.skipped.items())
    verdicts = "".join(f"<li>{escape(sentence)}</li>" for sentence in tables.verdicts(results))
    environments = "\n".join(
        f"<{heading}>{escape(env)}</{heading}>"
        f"{table(*tables.of_environment(results, env))}{table(*tables.curves(results, env))}"
        for env in found
    )
    image = embedded(picture.success(results), "success against latency and training", picture.CAPTION) if found else ""
    return f"""<p>{escape(INTRODUCTION)}</p>
<p>{escape(tables.described(results))}</p>
{image}
<{heading}>Who is ahead</{heading}><ul>{verdicts}</ul>
<{heading}>Policies</{heading}><ul>{legend}{skipped}</ul>
{environments}"""
