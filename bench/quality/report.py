"""The study as one HTML page that needs nothing else."""

import base64
from html import escape

from nfkern.bench.quality import picture, tables
from nfkern.bench.quality.policies import POLICIES
from nfkern.bench.quality.records import Results
from nfkern.bench.quality.shapes import DENSITIES
from nfkern.bench.quality.summary import summaries
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
    found = summaries(results)
    image = base64.b64encode(picture.pareto(results)).decode()
    sections = "\n".join(
        f"<h2>{escape(name)}</h2><p>{escape(DENSITIES[name].summary)}</p>{table(*tables.of_density(rows))}"
        for name, rows in found.items()
    )
    names = [name for name in results.settings.policies if name not in results.skipped]
    legend = "".join(f"<li><b>{escape(name)}</b>: {escape(POLICIES[name].summary)}</li>" for name in names)
    skipped = "".join(f"<li>{escape(f'{name}: skipped, {why}')}</li>" for name, why in results.skipped.items())
    verdicts = "".join(f"<li>{escape(sentence)}</li>" for sentence in tables.verdicts(results))
    body = f"""<p>{escape(INTRODUCTION)}</p>
<p>{escape(tables.described(results))}</p>
<figure><img alt="quality against latency" src="data:image/png;base64,{image}">
<figcaption>{escape(picture.CAPTION)}</figcaption></figure>
<h2>Who is ahead</h2><ul>{verdicts}</ul>
<h2>Policies</h2><ul>{legend}{skipped}</ul>
<h2>Time of act for 1 and 256 observations, and CPU time of training</h2>{table(*tables.costs(results))}
{sections}"""
    return page("Quality beside speed", body, f"{len(results.fits)} fits, started {results.started}")
