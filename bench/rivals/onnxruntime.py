"""The naive flow exported to ONNX and run by ONNX Runtime's CPU provider.

The flow whose matrices were composed beforehand is exported by `torch.onnx.export`, its score with it:
`torch.func.grad` is traced into the graph. `onnxruntime_one_sweep` is the stacked reference's sample and score in one
pass, exported in the same way: what that algebra alone brings this rival. Shapes are fixed, all graph optimisations are
on, and every set of inputs has its own binding to memory that exists before the clock starts (measured 2026-11,
batch 1: 178 us a call, against 193 us with new outputs at every call).

A session has as many threads as PyTorch. They spin inside a call, which is the rival's default and serves it, and stop
when it ends: spinning on, they would take the other variants' cores.
"""

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from nfkern.bench.core.declarations import Builder, Implementation
from nfkern.bench.problems.causal_problem import CausalProblem
from nfkern.bench.problems.eager_causal import EagerCausalFlow
from nfkern.bench.problems.flow_problem import FlowProblem
from nfkern.bench.rivals import eager_plu_once
from nfkern.bench.rivals.exporting import Forward, outside_inference_mode
from nfkern.bench.rivals.reference_flow import ReferenceFlow


def session(model: nn.Module, example: tuple[torch.Tensor, ...], threads: int) -> Any:
    """An `onnxruntime.InferenceSession` for inputs of the example's shapes."""
    import onnxruntime

    # One line for each of torchvision's ops that it does not find.
    noise = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = noise.level
    noise.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            program = torch.onnx.export(model.eval(), example, dynamo=True, verbose=False)
    finally:
        noise.setLevel(before)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    serialized = program.model_proto.SerializeToString()
    return onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])


def _implementation(problem: FlowProblem | CausalProblem, model: nn.Module, as_tuple: bool = False) -> Implementation:
    import onnxruntime

    made = session(model, problem.inputs[0], torch.get_num_threads())

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
        return found if as_tuple else found[0]

    return Implementation(run, arguments=bound, result=result)


def _log_prob(problem: FlowProblem) -> Implementation:
    flow = eager_plu_once.fixed_flow(problem)
    return _implementation(problem, Forward(flow, flow.log_prob))


def _causal_log_prob(problem: CausalProblem) -> Implementation:
    flow = EagerCausalFlow.like(problem.flow)
    return _implementation(problem, Forward(flow, flow.log_prob))


def _inverse(problem: FlowProblem) -> Implementation:
    flow = eager_plu_once.fixed_flow(problem)
    return _implementation(problem, Forward(flow, flow.to_data), as_tuple=True)


def _denoised_action(problem: FlowProblem) -> Implementation:
    return _implementation(problem, eager_plu_once.traced_action(problem))


def _one_sweep(problem: FlowProblem) -> Implementation:
    flow = ReferenceFlow(problem.flow)
    # It would count a method's self among the arguments.
    traced = make_fx(lambda noise, context: flow.denoised_action(noise, context))
    return _implementation(problem, traced(*problem.inputs[0]))


BUILDERS: Mapping[str, Builder] = {
    "log_prob": outside_inference_mode(_log_prob),
    "inverse": outside_inference_mode(_inverse),
    "denoised_action": outside_inference_mode(_denoised_action),
    "causal_log_prob": outside_inference_mode(_causal_log_prob),
}

ONE_SWEEP_BUILDERS: Mapping[str, Builder] = {"denoised_action": outside_inference_mode(_one_sweep)}
