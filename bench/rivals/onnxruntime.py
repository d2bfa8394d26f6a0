"""ONNX Runtime's CPU provider: the naive flow with its matrices composed beforehand, or the stacked reference's sweep.

Shapes are fixed, all graph optimisations are on. A session has as many threads as PyTorch. They spin inside a call,
which is the rival's default and serves it, and stop when it ends: spinning on, they would take the others' cores.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from nfkern.algorithms.exporting import exportable
from nfkern.bench.core.declarations import Implementation, Variant
from nfkern.bench.problems.calls import ACTING
from nfkern.bench.problems.eager import EagerFlow
from nfkern.bench.rivals.forms import Make, builders, exported
from nfkern.bench.rivals.models import ReferenceFlow, behind
from nfkern.bench.works.control_loop import ControlProblem
from nfkern.bench.works.flow_works import naive


def session(model: nn.Module, example: tuple[torch.Tensor, ...], threads: int) -> Any:
    """An `onnxruntime.InferenceSession` for inputs of the example's shapes."""
    import onnxruntime

    with exportable():
        program = torch.onnx.export(model.eval(), example, dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    serialized = program.model_proto.SerializeToString()
    return onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])


def _exported(make: Make, work: str, problem: Any) -> Implementation:
    """Every set of inputs has its own binding to memory that exists before the clock starts: 178 us against 193."""
    import onnxruntime

    made = session(exported(make, work, problem), problem.inputs[0], torch.get_num_threads())

    def bound(*inputs: torch.Tensor) -> tuple[Any, ...]:
        """A binding whose inputs are views of the tensors, and whose outputs are written in place at every call."""
        binding = made.io_binding()
        for described, tensor in zip(made.get_inputs(), inputs, strict=True):
            binding.bind_cpu_input(described.name, tensor.numpy())
        for described in made.get_outputs():
            output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(described.shape, np.float32)
            binding.bind_ortvalue_output(described.name, output)
        return (binding,)

    def run(binding: Any) -> Any:
        made.run_with_iobinding(binding)
        return binding

    def result(binding: Any) -> Any:
        found = tuple(torch.from_numpy(value.numpy().copy()) for value in binding.get_outputs())
        return found if len(found) > 1 else found[0]

    return Implementation(run, arguments=bound, result=result)


def _loop(problem: ControlProblem) -> Implementation:
    flow = ReferenceFlow(problem.flow).requires_grad_(False)
    made = session(behind(problem.encoder, flow), problem.example, torch.get_num_threads())
    first, second = (described.name for described in made.get_inputs())

    def act(observations: np.ndarray) -> np.ndarray:
        noise = torch.randn(len(observations), problem.flow.features)
        found: np.ndarray = made.run(None, {first: observations, second: noise.numpy()})[0]
        return found

    return Implementation(act)


_NEEDS = ("onnx", "onnxscript", "onnxruntime")
VARIANTS = (
    Variant(
        "onnxruntime",
        "the naive flow, matrices composed beforehand, exported to ONNX Runtime",
        {
            **builders(_exported, EagerFlow.composed, ACTING),
            **builders(_exported, naive, ("causal_log_prob",)),
        },
        compiles=True,
        requires=_NEEDS,
        device="cpu",
    ),
    Variant(
        "onnxruntime_one_sweep",
        "the stacked reference's one sweep, exported to ONNX Runtime",
        {**builders(_exported, ReferenceFlow, ("denoised_action",)), "control_loop": _loop},
        compiles=True,
        requires=_NEEDS,
        device="cpu",
    ),
)
