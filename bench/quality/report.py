"""The study as one HTML page that needs nothing else."""

from html import escape

from nfkern.bench.quality import picture, tables
from nfkern.bench.quality.policies import POLICIES
from nfkern.bench.quality.records import Results
from nfkern.bench.quality.shapes import DENSITIES
from nfkern.bench.quality.summary import summaries
from nfkern.bench.studies.drawing import embedded
from nfkern.page import page, table

INTRODUCTION = (
    "Every policy learns the same conditional densities from the same batches, in as many steps, with the same "
    "optimiser (AdamW), schedule (warm-up, cosine) and average of the weights. Depths and proportions are each "
    "algorithm's own, and widths give the networks that act as many parameters. The learning rate is each policy's "
    "best of one grid by its own held-out loss. Three densities are Gaussians or mixtures of them, gaussians_25 "
    "exactly as a mixture density network has them: it is at home there."
)


def to_html(results: Results) -> str:
    """The page."""
    footer = f"{len(results.fits)} fits, started {results.started}"
    return page("Quality beside speed", body(results, "h2"), footer)


def body(results: Results, heading: str) -> str:
    """All of the page, its headings in elements of this name."""
    found = summaries(results)
    latency = embedded(picture.pareto(results), "quality against latency", picture.CAPTION)
    training = embedded(
        picture.pareto(results, picture.TRAINING), "quality against training time", picture.TRAINING_CAPTION
    )
    sections = "\n".join(
        f"<{heading}>{escape(name)}</{heading}><p>{escape(DENSITIES[name].summary)}</p>{table(*tables.of_density(rows))}"
        for name, rows in found.items()
    )
    names = [name for name in results.settings.policies if name not in results.skipped]
    legend = "".join(f"<li><b>{escape(name)}</b>: {escape(POLICIES[name].summary)}</li>" for name in names)
    skipped = "".join(f"<li>{escape(f'{name}: skipped, {why}')}</li>" for name, why in results.skipped.items())
    verdicts = "".join(f"<li>{escape(sentence)}</li>" for sentence in tables.verdicts(results))
    return f"""<p>{escape(INTRODUCTION)}</p>
<p>{escape(tables.described(results))}</p>
{latency}
{training}
<{heading}>Who is ahead</{heading}><ul>{verdicts}</ul>
<{heading}>Policies</{heading}><ul>{legend}{skipped}</ul>
<{heading}>Time of act for 1 and 256 observations, and CPU time of training</{heading}>{table(*tables.costs(results))}
{sections}"""
