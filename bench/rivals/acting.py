"""The control loop's rivals, numpy to numpy: the flow behind its encoder, and other policies, in several forms each.

The flow is the stacked reference, which samples and scores in one sweep, with the encoder in the same graph: under
torch.compile, as a package of AOTInductor's, and in ONNX Runtime. `jax_acting` has it in JAX.

Other policies run as their packages have them, and unrolled, under torch.compile and as packages of AOTInductor's in
the faster of two modes (2026-11, AMD EPYC, Zen 3): one pass through a network with its weights frozen and its products
autotuned, 0.6 to 0.8 of the default mode's time; many passes in the default mode, which takes a third to half of the
frozen one's, where each pass has a copy of the weights. Their networks are as large as flow and encoder, or 512 wide.

Prediction against measurement (`bench/results/control-loop-cpu-2026-11-27.json`: one thread of an AMD EPYC, Zen 3): a
step reads the network's 7.5 MB, 0.16 ms at the third cache's rate, and took 0.26 as a package; ten steps predicted 1.6
ms, measured 3.1 to 3.3 as packages, 4.4 to 4.7 under torch.compile and 5.8 to 13 as their own packages run them; a
hundred predicted 16, measured 28, 35 and 173. Other guests leave little more of that cache than the network needs.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import nn

from nfkern.bench.core import gate
from nfkern.bench.core.declarations import Builder, Implementation
from nfkern.bench.core.sizes import nearest_width
from nfkern.bench.problems.control_loop import ControlProblem, actions
from nfkern.bench.rivals import aot_inductor, onnxruntime
from nfkern.bench.rivals.compiled import compile_whole
from nfkern.bench.rivals.policies import OWN_WIDTH, Head
from nfkern.bench.rivals.reference_flow import ReferenceFlow, SplitReferenceFlow


class _Acting(nn.Module):
    """From observations (batch, 58) and noise (batch, features) to denoised actions (batch, features)."""

    def __init__(self, encoder: nn.Module, flow: ReferenceFlow) -> None:
        super().__init__()
        self.encoder, self.flow = encoder, flow

    def forward(self, observations: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return self.flow.denoised_action(noise, self.encoder(observations))


def _compiled(problem: ControlProblem) -> Implementation:
    return _loop(problem, compile_whole(_Acting(problem.encoder, ReferenceFlow(problem.flow))))


def _packaged(problem: ControlProblem) -> Implementation:
    model = _Acting(problem.encoder, SplitReferenceFlow(problem.flow)).eval()
    with torch.no_grad():
        loader = aot_inductor.load_compiled(model, _example(problem))
    return _loop(problem, lambda *inputs: loader.run(inputs)[0])


def _onnx(problem: ControlProblem) -> Implementation:
    model = _Acting(problem.encoder, ReferenceFlow(problem.flow))
    with torch.no_grad():
        session = onnxruntime.session(model, _example(problem), torch.get_num_threads())
    first, second = (described.name for described in session.get_inputs())

    def act(observations: np.ndarray) -> np.ndarray:
        noise = torch.randn(len(observations), problem.flow.features)
        found: np.ndarray = session.run(None, {first: observations, second: noise.numpy()})[0]
        return found

    return Implementation(act)


def _example(problem: ControlProblem) -> tuple[torch.Tensor, torch.Tensor]:
    (observations,) = problem.inputs[0]
    return torch.from_numpy(observations), torch.zeros(len(observations), problem.flow.features)


def _loop(problem: ControlProblem, action: Callable[..., torch.Tensor]) -> Implementation:
    def act(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            noise = torch.randn(len(observations), problem.flow.features)
            return action(torch.from_numpy(observations), noise).numpy()

    return Implementation(act)


def eager(head: Head, problem: ControlProblem) -> Implementation:
    """As a package runs it: diffusion's steps by the schedulers of diffusers, flow matching's by a loop."""
    network, features = _network_for(head, problem), problem.flow.features
    if head.packaged is None:
        return _checked(head, problem, network, head.action(network, features))
    sample = head.packaged(network, features)

    def act(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return sample(torch.from_numpy(observations)).numpy()

    def one_by_one(rows: int) -> torch.Tensor:
        return torch.stack([torch.randn(rows, features) for _ in range(head.draws)])

    right = partial(_right_actions, head, problem, network, one_by_one)
    return Implementation(act, check=partial(_check, problem, right), parameters=_count(network))


def _compiled_head(head: Head, problem: ControlProblem, own_size: bool = False) -> Implementation:
    """Unrolled and compiled."""
    network = _network_for(head, problem, own_size)
    return _checked(head, problem, network, compile_whole(head.action(network, problem.flow.features)))


def _checked(
    head: Head, problem: ControlProblem, network: nn.Sequential, action: Callable[..., torch.Tensor]
) -> Implementation:
    """Numpy to numpy with the head's noise, held to the head's arithmetic; `action` is called as `Action` is."""

    def draw(rows: int) -> torch.Tensor:
        return torch.randn(head.draws, rows, problem.flow.features)

    def act(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return action(torch.from_numpy(observations), draw(len(observations))).numpy()

    right = partial(_right_actions, head, problem, network, draw)
    return Implementation(act, check=partial(_check, problem, right), parameters=_count(network))


def _network_for(head: Head, problem: ControlProblem, own_size: bool = False) -> nn.Sequential:
    """A network with as many parameters as the flow and its encoder have, or of the head's own width."""
    features = problem.flow.features
    if own_size:
        return head.make(features, OWN_WIDTH)
    return head.make(features, nearest_width(lambda width: _count(head.make(features, width)), problem.parameters))


def _count(network: nn.Sequential) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _right_actions(
    head: Head,
    problem: ControlProblem,
    network: nn.Sequential,
    draw: Callable[[int], torch.Tensor],
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return a check of the head's arithmetic, with the noise that it draws from torch's generator at `SEED`."""
    action: Callable[..., torch.Tensor] = head.action(copy.deepcopy(network).to(dtype), problem.flow.features)

    def act(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return action(torch.from_numpy(observations).to(dtype), draw(len(observations)).to(dtype)).numpy()

    return actions(Implementation(act), problem.inputs)


def _check(
    problem: ControlProblem, right: Callable[[torch.dtype], torch.Tensor], implementation: Implementation
) -> str | None:
    """Actions held to those of float64, in the float32 arithmetic's own error."""
    found, exact, single = actions(implementation, problem.inputs), right(torch.float64), right(torch.float32)
    return gate.disagreement("action", found, exact, single, gate.EPSILON["fp32"], OWN_WIDTH)


def _packaged_head(head: Head, problem: ControlProblem, own_size: bool = False) -> Implementation:
    network, features = _network_for(head, problem, own_size), problem.flow.features
    noise = torch.zeros(head.draws, problem.batch, features)
    observations, _ = _example(problem)
    with torch.no_grad():
        model = head.action(network, features).eval()
        loader = aot_inductor.load_compiled(model, (observations, noise), tuned=head.steps == 1)
    return _checked(head, problem, network, lambda *inputs: loader.run(inputs)[0])


COMPILED_BUILDERS: Mapping[str, Builder] = {"control_loop": _compiled}
PACKAGE_BUILDERS: Mapping[str, Builder] = {"control_loop": _packaged}
ONNX_BUILDERS: Mapping[str, Builder] = {"control_loop": _onnx}
"""Of the flow."""

HEAD_FORMS: Mapping[str, tuple[str, Callable[[Head, ControlProblem], Implementation]]] = {
    "": ("eager PyTorch", eager),
    "_compile": ("unrolled by hand under torch.compile", _compiled_head),
    "_compile_own_size": ("unrolled by hand under torch.compile", partial(_compiled_head, own_size=True)),
    "_aot_inductor": ("unrolled by hand, ahead of time by AOTInductor", _packaged_head),
    "_aot_inductor_own_size": (
        "unrolled by hand, ahead of time by AOTInductor",
        partial(_packaged_head, own_size=True),
    ),
}
"""Of a head: what its variants' names end with, a word about it, and what makes it."""
