"""Forms in which PyTorch runs a model: as it is, under torch.compile, autotuned, as AOTInductor's package, as a graph.

A form is a function (make, work, problem) -> `Implementation`, with `make` from the problem's flow to a model. What it
does to a function of tensors is a function of its own, which the control loop uses, too.

On a CPU "max-autotune" times ATen's products against templates in C++, which it has for products with a constant weight
and for batches of products without an addend. Weights are constants only to a compiler that freezes, which also packs
and folds them. On a GPU the mode times templates in Triton and replays CUDA graphs.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import _inductor as inductor
from torch import nn
from torch.utils._pytree import tree_map

from nfkern.acting.cuda_graphs import Capture, capture_cuda
from nfkern.bench.core.declarations import Builder, Implementation
from nfkern.bench.problems.calls import AdamWStep, Model, called
from nfkern.bench.rivals.graphed import Graphed
from nfkern.bench.rivals.models import Forward, exportable

Make = Callable[[Any], Model]
Form = Callable[[Make, str, Any], Implementation]

_QUIET = {"autotune_num_choices_displayed": 0, "max_autotune_report_choices_stats": False}


def builders(form: Form, make: Make, works: Iterable[str]) -> dict[str, Builder]:
    """A variant's builders of works on flows."""
    return {work: partial(form, make, work) for work in works}


def with_own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch keeps graphs with the code that it compiled, for all modules of a class together."""

    def whole(*inputs: Any) -> Any:
        return function(*inputs)

    return FunctionType(whole.__code__.replace(), whole.__globals__, closure=whole.__closure__)


def compile_whole(function: Callable[..., Any]) -> Callable[..., Any]:
    """One shape, one graph: fullgraph makes a silent fall-back to eager an error."""
    return torch.compile(with_own_code(function), dynamic=False, fullgraph=True)


@contextmanager
def traceable() -> Iterator[None]:
    """Exporters trace with autograd's machinery, which tensors made in inference mode cannot enter."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def eager(make: Make, work: str, problem: Any) -> Implementation:
    """As it is."""
    return called(make(problem.flow), work)


def compiled(make: Make, work: str, problem: Any) -> Implementation:
    """Under torch.compile, default mode; the optimiser as everywhere."""
    return called(make(problem.flow), work, compile_whole)


def max_autotuned(make: Make, work: str, problem: Any) -> Implementation:
    """In mode "max-autotune", with weights frozen; those that change in training cannot be."""
    device = problem.inputs[0][0].device
    on_cpu = device.type == "cpu"
    # The mode by its options, since torch.compile takes either; the wrapper in C++ rules out CUDA graphs.
    mode = inductor.list_mode_options("max-autotune-no-cudagraphs" if on_cpu else "max-autotune")
    options = {**mode, **_QUIET, "cpp_wrapper": on_cpu}
    compiler = partial(torch.compile, dynamic=False, fullgraph=True, options=options)
    if work == "training_step":
        built = called(make(problem.flow), work, compiler)
        return Implementation(built.run, built.gradients, result=_copied)
    with traceable():
        run = compiler(exportable(_constant(make, problem), work, problem.inputs[0]))
    # Here, not at the gate: what freezes reads its switch while it traces the first call.
    with inductor.config.patch(freezing=True):
        run(*problem.inputs[0])
    return Implementation(run, result=_copied)


def _copied(results: Any) -> Any:
    """Results that the next call leaves alone: a CUDA graph's lie in memory that each replay overwrites."""
    return tree_map(torch.clone, results)


def aot_inductor(make: Make, work: str, problem: Any) -> Implementation:
    """Exported, compiled ahead of time, and loaded again: what one would deploy."""
    return Implementation(packaged(exported(make, work, problem), problem.inputs[0]))


def exported(make: Make, work: str, problem: Any) -> nn.Module:
    """A work of a model as a module, for exporters."""
    with traceable():
        model = _constant(make, problem)
        function = exportable(model, work, problem.inputs[0])
        return function if isinstance(function, nn.Module) else Forward(model, function)


def _constant(make: Make, problem: Any) -> Any:
    return make(problem.flow).requires_grad_(False)


def packaged(model: nn.Module, example: tuple[torch.Tensor, ...], tuned: bool = True) -> Callable[..., Any]:
    """A call of the model's package for inputs of the example's shapes.

    Without `tuned` weights are not frozen, and products are the default mode's: frozen ones are laid out anew for each
    product that they enter, so that ten steps through one network read ten copies. Packages have no CUDA graphs.
    """
    run = load_package(model, example, tuned).run

    def call(*inputs: torch.Tensor) -> Any:
        results = run(inputs)
        return results[0] if len(results) == 1 else results

    return call


def load_package(model: nn.Module, example: tuple[torch.Tensor, ...], tuned: bool) -> Any:
    """The package's loader, called as C++ would: the loaded model's own call reads two descriptions each time.

    The package lies in a folder that is gone when this returns. The loader has unpacked it into one of its own, which
    it removes when it is dropped.
    """
    chosen = {**inductor.list_mode_options("max-autotune-no-cudagraphs"), "freezing": True} if tuned else {}
    with traceable(), tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        package, program = str(Path(folder) / "model.pt2"), torch.export.export(model.eval(), example)
        inductor.aoti_compile_and_package(program, package_path=package, inductor_configs={**chosen, **_QUIET})
        return inductor.aoti_load_package(package).loader


def captured(
    make: Make, work: str, problem: Any, form: Form = compiled, capture: Capture = capture_cuda
) -> Implementation:
    """The calls of another form, captured as CUDA graphs by hand; a training step is one graph with AdamW."""
    built = form(make, work, problem)
    # A capture calls what it captures, and a training step's calls move the parameters.
    with built.run.undone() if isinstance(built.run, AdamWStep) else nullcontext():
        graphed = Graphed(built.run, problem.inputs[0], capture)
    return Implementation(graphed, built.gradients, result=graphed.copied)
