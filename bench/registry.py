"""Works and variants, by name.

To add a variant, write its builders in a file of `rivals/` (a function from a work's problem to an `Implementation`, or
a form of a model), declare it there, and name its file below and itself in the declarations of `suites`. One that
computes something else than the work's results names its standing, and its implementations bring a check of their own.
"""

from collections.abc import Sequence

from nfkern.bench.core.declarations import Variant, Work
from nfkern.bench.rivals import (
    acting,
    floors,
    jax_causal,
    nflows,
    onnxruntime,
    pytorch,
    sampling,
    stacked,
    zuko,
)
from nfkern.bench.works import training_runs
from nfkern.bench.works.control_loop import AfterPause, ControlLoop, Evicted
from nfkern.bench.works.data_works import DataSampling
from nfkern.bench.works.flow_works import CAUSAL_WORKS, ENCODED_WORKS, FLOW_WORKS
from nfkern.bench.works.plane_works import CandidateDensities
from nfkern.bench.works.training_runs import TRAINING_RUNS

_WORKS: tuple[Work, ...] = (
    *(*FLOW_WORKS, *ENCODED_WORKS, *CAUSAL_WORKS),
    *(CandidateDensities(), ControlLoop(), AfterPause(), Evicted(), DataSampling()),
    *TRAINING_RUNS,
)
WORKS: dict[str, Work] = {work.name: work for work in _WORKS}

# Other packages' flows as they are, then compiled.
_PACKAGES = sorted((*zuko.VARIANTS, *nflows.VARIANTS), key=lambda variant: variant.compiles)
_RIVALS: tuple[Sequence[Variant], ...] = (
    *(pytorch.VARIANTS, stacked.VARIANTS, onnxruntime.VARIANTS, jax_causal.VARIANTS, _PACKAGES),
    *(floors.VARIANTS, sampling.VARIANTS, training_runs.VARIANTS, acting.VARIANTS),
)
VARIANTS: dict[str, Variant] = {variant.name: variant for rival in _RIVALS for variant in rival}
