"""nfkern's own flow, called as a user calls it, and frozen for acting; PyTorch's dispatcher picks the backend."""

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from nfkern import Flow
from nfkern.bench.core.declarations import Builder, Implementation, Variant
from nfkern.bench.problems.calls import AdamWStep
from nfkern.bench.problems.flow_problem import SIGMA, FlowProblem, Problem
from nfkern.bench.rivals.sampling import nfkern_sampler
from nfkern.bench.works.control_loop import ControlProblem
from nfkern.bench.works.plane_works import beyond_tables
from nfkern.flows.flow import ActingFlow
from nfkern.flows.tabulated import tabulated_log_prob_2d
from nfkern.kernels import use_reference

FlowWorkProblem = Problem[Any, Any]


def _denoised(flow: Flow) -> Callable[..., torch.Tensor]:
    def act(noise: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return flow.sample_denoised(SIGMA, (), context, noise=noise)

    return act


def _trained(dtype: torch.dtype | None, problem: FlowWorkProblem) -> Implementation:
    """Forward and backward through nfkern's ops, torch.optim.AdamW; with a dtype, under autocast."""
    flow = copy.deepcopy(problem.flow)

    def loss(x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        with nullcontext() if dtype is None else torch.autocast(x.device.type, dtype):
            log_prob: torch.Tensor = flow(x, context)
        return -log_prob.mean()

    def gradients() -> dict[str, torch.Tensor]:
        return {name: parameter.grad for name, parameter in flow.named_parameters() if parameter.grad is not None}

    return Implementation(AdamWStep(flow.parameters(), loss), gradients)


def _loop(problem: ControlProblem) -> Implementation:
    def act(observations: Any) -> Any:
        with torch.no_grad():
            context = problem.encoder(torch.from_numpy(observations))
            return problem.flow.sample_denoised(SIGMA, (), context).numpy()

    return Implementation(act)


def _tables(problem: FlowProblem) -> Implementation:
    return Implementation(partial(tabulated_log_prob_2d, problem.flow), check=partial(beyond_tables, problem))


def _jacobi(problem: FlowWorkProblem) -> Implementation:
    return Implementation(partial(problem.flow.to_data, method="jacobi"))


def _acting(prepared: Callable[[FlowWorkProblem], Flow]) -> dict[str, Builder]:
    """The works of acting by a flow that is prepared before the clock starts."""
    builders: dict[str, Builder] = {
        "log_prob": lambda problem: Implementation(prepared(problem).log_prob),
        "inverse": lambda problem: Implementation(prepared(problem).to_data),
        "denoised_action": lambda problem: Implementation(_denoised(prepared(problem))),
    }
    return {**builders, "causal_log_prob": builders["log_prob"], "causal_inverse": builders["inverse"]}


BUILDERS: Mapping[str, Builder] = {
    **_acting(lambda problem: problem.flow),
    "training_step": partial(_trained, None),
    "encoded_training_step": partial(_trained, None),
    "causal_training_step": partial(_trained, None),
}


def _frozen(dtype: torch.dtype) -> dict[str, Builder]:
    """Folded and composed once, hidden weights in `dtype`."""

    def frozen(problem: FlowWorkProblem) -> Flow:
        flow: ActingFlow = problem.flow.freeze(dtype)
        # Of a causal flow on a CPU nothing is captured, and the score of thousands of sequences takes long.
        on_cpu = not problem.inputs[0][0].is_cuda
        return flow if len(flow.event_shape) > 1 and on_cpu else flow.warmup([problem.batch])

    def loop(problem: ControlProblem) -> Implementation:
        policy = problem.flow.freeze(dtype, problem.encoder)
        return Implementation(lambda observations: policy.act(observations, SIGMA))

    return {**_acting(frozen), "control_loop": loop}


def _on_reference(builder: Builder, problem: FlowWorkProblem) -> Implementation:
    """The same calls while `use_reference()` is in force."""
    built = builder(problem)

    def run(*inputs: torch.Tensor) -> Any:
        with use_reference():
            return built.run(*inputs)

    return Implementation(run, built.gradients)


NFKERN = Variant(
    "nfkern",
    "nfkern as a user calls it",
    {
        **BUILDERS,
        "data_sampling": nfkern_sampler,
        "control_loop": _loop,
        "candidate_log_prob": lambda problem: Implementation(problem.flow.log_prob),
    },
)
NFKERN_BF16 = Variant(
    "nfkern_bf16",
    "nfkern trained under autocast",
    {"training_step": partial(_trained, torch.bfloat16)},
    precision="bf16",
)
FROZEN = Variant("nfkern_frozen", "nfkern frozen for acting", _frozen(torch.float32))
FROZEN_BF16 = Variant(
    "nfkern_frozen_bf16", "nfkern frozen, hidden products in bf16", _frozen(torch.bfloat16), precision="bf16"
)
FROZEN_INT8 = Variant(
    "nfkern_frozen_int8",
    "nfkern frozen, hidden and context weights in int8",
    {"control_loop": _frozen(torch.int8)["control_loop"]},
    precision="int8",
)

VARIANTS = (
    NFKERN,
    Variant(
        "nfkern_tables",
        "nfkern by tables of the conditioners",
        {"candidate_log_prob": _tables},
        standing="tolerance",
    ),
    FROZEN,
    FROZEN_BF16,
    FROZEN_INT8,
    Variant("nfkern_jacobi", "nfkern's inverse by Jacobi iteration", {"causal_inverse": _jacobi}),
    Variant(
        "nfkern_reference",
        "nfkern on its reference backend",
        {work: partial(_on_reference, builder) for work, builder in BUILDERS.items()},
    ),
)
