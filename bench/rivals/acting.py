"""Rival policies in the control loop, numpy to numpy: as their packages have them, compiled, and as packages.

Their networks are as large as flow and encoder, or 512 wide. AOTInductor runs each in the faster of two modes (2026-11,
AMD EPYC, Zen 3): one pass with its weights frozen and its products autotuned, 0.6 to 0.8 of the default mode's time;
many passes in the default mode, a third to half of the frozen one's, where each pass has a copy of the weights.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from nfkern.bench.core import gate
from nfkern.bench.core.declarations import Implementation, Variant
from nfkern.bench.core.sizes import nearest_width
from nfkern.bench.rivals import forms
from nfkern.bench.rivals.policies import HEADS, OWN_WIDTH, Head
from nfkern.bench.works.control_loop import Act, ControlProblem, actions, looped

Draw = Callable[[int], torch.Tensor]


def eager(head: Head, problem: ControlProblem) -> Implementation:
    """As a package runs it: diffusion's steps by the schedulers of diffusers, flow matching's by a loop."""
    network, features = _network_for(head, problem), problem.flow.features
    if head.packaged is None:
        draw = partial(_draw, head, problem)
        return _checked(head, problem, network, looped(head.action(network, features), draw), draw)
    sample = head.packaged(network, features)

    def act(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return sample(torch.from_numpy(observations)).numpy()

    def one_by_one(rows: int) -> torch.Tensor:
        return torch.stack([torch.randn(rows, features) for _ in range(head.draws)])

    return _checked(head, problem, network, act, one_by_one)


def _unrolled(form: Callable[..., Any], own_size: bool, head: Head, problem: ControlProblem) -> Implementation:
    network, draw = _network_for(head, problem, own_size), partial(_draw, head, problem)
    example = problem.example[0], torch.zeros(head.draws, problem.batch, problem.flow.features)
    action = form(head, head.action(network, problem.flow.features), example)
    return _checked(head, problem, network, looped(action, draw), draw)


def _compiled(head: Head, action: nn.Module, example: Any) -> Callable[..., Any]:
    return forms.compile_whole(action)


def _packaged(head: Head, action: nn.Module, example: Any) -> Callable[..., Any]:
    return forms.packaged(action, example, tuned=head.steps == 1)


def _draw(head: Head, problem: ControlProblem, rows: int) -> torch.Tensor:
    return torch.randn(head.draws, rows, problem.flow.features)


def _network_for(head: Head, problem: ControlProblem, own_size: bool = False) -> nn.Sequential:
    """A network with as many parameters as the flow and its encoder have, or of the head's own width."""
    features = problem.flow.features
    if own_size:
        return head.make(features, OWN_WIDTH)
    return head.make(features, nearest_width(lambda width: _count(head.make(features, width)), problem.parameters))


def _count(network: nn.Sequential) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _checked(head: Head, problem: ControlProblem, network: nn.Sequential, act: Act, draw: Draw) -> Implementation:
    """Actions are held to those of the head's arithmetic in float64, in the error of float32's."""

    def right(dtype: torch.dtype) -> torch.Tensor:
        action = head.action(copy.deepcopy(network).to(dtype), problem.flow.features)
        cast = looped(lambda observations, noise: action(observations.to(dtype), noise.to(dtype)), draw)
        return actions(cast, problem.inputs)

    def check(implementation: Implementation) -> str | None:
        found = actions(implementation.run, problem.inputs)
        exact, single = right(torch.float64), right(torch.float32)
        return gate.disagreement("action", found, exact, single, gate.EPSILON["fp32"], OWN_WIDTH)

    return Implementation(act, check=check, parameters=_count(network))


_COMPILED = "unrolled by hand under torch.compile"
_PACKAGED = "unrolled by hand, ahead of time by AOTInductor"
HEAD_FORMS: Mapping[str, tuple[str, Callable[[Head, ControlProblem], Implementation]]] = {
    "": ("eager PyTorch", eager),
    "_compile": (_COMPILED, partial(_unrolled, _compiled, False)),
    "_compile_own_size": (_COMPILED, partial(_unrolled, _compiled, True)),
    "_aot_inductor": (_PACKAGED, partial(_unrolled, _packaged, False)),
    "_aot_inductor_own_size": (_PACKAGED, partial(_unrolled, _packaged, True)),
}
"""Forms of a head, by the ends of its variants' names: words about each, and its builder."""

VARIANTS = tuple(
    Variant(
        head.name + form,
        f"{head.summary}, {words}",
        {"control_loop": partial(build, head)},
        compiles=form != "",
        requires=head.requires,
        standing="own_size" if form.endswith("_own_size") else "same_size",
    )
    for form, (words, build) in HEAD_FORMS.items()
    for head in HEADS
)
