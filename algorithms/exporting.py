"""A trained policy as a file for other runtimes: ONNX, a program of PyTorch's export, or AOTInductor's package."""

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

import nfkern
from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.agents.policy import check_inputs
from nfkern.errors import UserError
from nfkern.host.files import atomic_file
from nfkern.host.packages import install_command
from nfkern.kernels.dispatch.registry import inline_definitions

Format = Literal["onnx", "pt2", "aoti"]
Run = Callable[[Sequence[np.ndarray]], np.ndarray]

DECISIONS = 2048
"""Random observations on which an export is compared with the policy."""

QUANTILES = (0.5, 0.9, 0.99)
"""Of the errors that are compared. Single ones say little: at a LeakyReLU's kink a score jumps."""

ROUNDING = 1e-5
"""Error beside twice PyTorch's own in float32 that an export may have, as a share of the actions' range."""

METADATA = "nfkern"
"""Key of the description in an ONNX file's metadata."""


_FORMATS: dict[str, Format] = {".onnx": "onnx", ".pt2": "pt2"}
_PACKAGES: dict[Format, tuple[str, ...]] = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": (), "aoti": ()}


def format_of(path: Path, kind: Format | None = None) -> Format:
    """Return the format of a file to write: the one asked for, or its suffix's.

    Raises:
        UserError: neither, or a package is missing.
    """
    kind = kind or _FORMATS.get(path.suffix)
    if kind is None:
        raise UserError(f"OUT: expected a name that ends in .onnx or .pt2, or --format, got {path}")
    if kind not in _PACKAGES:
        raise UserError(f"--format: expected one of {', '.join(_PACKAGES)}, got {kind!r}")
    if missing := [name for name in _PACKAGES[kind] if find_spec(name) is None]:
        raise UserError(f"--format {kind}: needs {', '.join(missing)}: `{install_command(*missing)}`")
    return kind


@dataclass(frozen=True)
class Description:
    """What a loop needs to know of an exported policy, as JSON beside its graph.

    Attributes:
        algorithm: the agent's name.
        observation_size, history: an input `observations` is (n, history, observation_size) float32, oldest first.
        goal_size: an input `goals` is (n, goal_size) float32; 0 for none.
        noise_size: an input `noise` is (n, noise_size) float32, standard normal; 0 for none.
        action_size, chunk: the output `actions` is (n, chunk, action_size) float32, in the data's units.
        execute: number of a chunk's actions that are executed before the next decision.
        version: of nfkern.
    """

    algorithm: str
    observation_size: int
    history: int
    goal_size: int
    noise_size: int
    action_size: int
    chunk: int
    execute: int
    version: str

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Return the inputs' names and the shapes of their rows."""
        sizes = {"goals": (self.goal_size,), "noise": (self.noise_size,)}
        shapes = {"observations": (self.history, self.observation_size)} | sizes
        return {name: shape for name, shape in shapes.items() if shape != (0,)}


class Decision(nn.Module):
    """A decision as a function of the tensors that a description names."""

    def __init__(self, policy: Any, description: Description) -> None:
        super().__init__()
        # So that exporters find the weights.
        self.module = policy if isinstance(policy, nn.Module) else policy.flow
        self.policy, self.description = policy, description
        self.eval()

    def forward(self, observations: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        """Return actions (n, chunk, action_size)."""
        given = dict(zip(self.description.inputs, (observations, *rest), strict=True))
        noise = given.get("noise", observations.new_zeros(observations.shape[0], 1))
        actions: torch.Tensor = self.policy.decide(observations, given.get("goals"), noise)
        return actions


def export(agent: Agent, path: Path, kind: Format = "onnx") -> Description:
    """Write an agent's decision, for any number of rows, once it agrees with the agent.

    Normalisers, denoising and clipping are part of it. The file needs no nfkern where it runs: ONNX Runtime alone, or
    PyTorch. Compared are errors of actions for random observations, against the same agent in float64.

    Args:
        agent: trained.
        path: file to write or replace.
        kind: "onnx", "pt2" (`torch.export.load`), or "aoti" (`torch._inductor.aoti_load_package`), which is compiled
            for this machine's processor.

    Returns:
        What the file is.

    Raises:
        UserError: the agent draws random numbers on the way, or the export is less exact than PyTorch in float32.
            Nothing is written then.
    """
    agent = copy.deepcopy(agent).cpu().eval()
    description = describe(agent)
    decision = Decision(agent.freeze(), description)
    exact = Decision(copy.deepcopy(agent).double().freeze(), description)
    example = random_inputs(agent, description, 3)
    with atomic_file(path, path.suffix) as temporary, exportable(kind):
        _WRITERS[kind](decision, example, temporary)
        check_agreement(_LOADERS[kind](temporary), decision, exact, random_inputs(agent, description, DECISIONS))
    return description


def describe(agent: Agent) -> Description:
    """Return the description of an agent.

    Raises:
        UserError: it draws random numbers on the way.
    """
    sizes = agent.sizes
    goal_size = sizes.get("goal_size", sizes["observation_size"]) if agent.goal_conditioned else 0
    action_size, noise_size = sizes["action_size"], agent.chunk * sizes["action_size"]
    observations, goals = torch.zeros(1, agent.history, sizes["observation_size"]), torch.zeros(1, goal_size)
    # Noise that is not a number shows in the actions, if noise does: no clipping hides it.
    noise = torch.full((1, noise_size), torch.nan)
    with torch.no_grad():
        try:
            found = agent.decide(observations, goals if goal_size else None, noise)
        except TypeError as error:
            raise UserError(f"{agent.name} cannot be exported: it draws random numbers on the way ({error})") from None
    noise_size = noise_size if found.isnan().any() else 0
    return Description(
        agent.name,
        sizes["observation_size"],
        agent.history,
        goal_size,
        noise_size,
        action_size,
        agent.chunk,
        agent.execute,
        nfkern.__version__,
    )


def random_inputs(agent: Agent, description: Description, rows: int) -> tuple[torch.Tensor, ...]:
    """Return observations and goals spread as the agent's data, and noise."""
    generator = torch.Generator().manual_seed(0)
    normalizer = agent.observation_normalizer
    drawn = {name: torch.randn(rows, *shape, generator=generator) for name, shape in description.inputs.items()}
    for name in ("observations", "goals"):
        if name in drawn and drawn[name].shape[-1] == len(normalizer.center):
            drawn[name] = normalizer.inverse(drawn[name])
    return tuple(drawn.values())


@torch.no_grad()
def check_agreement(run: Run, decision: Decision, exact: Decision, inputs: tuple[torch.Tensor, ...]) -> None:
    """Check that an export is as exact as PyTorch is in float32.

    Raises:
        UserError: a quantile of its errors is larger, or the policy itself gives numbers that are not finite.
    """
    expected = exact(*(each.double() for each in inputs))
    if not expected.isfinite().all():
        raise UserError("the policy's own actions are not finite for random observations; nothing was written")
    spread = (expected.amax((0, 1)) - expected.amin((0, 1))).clamp_min(torch.finfo(torch.float32).tiny)

    def errors(actions: torch.Tensor) -> torch.Tensor:
        largest: torch.Tensor = ((actions - expected).abs() / spread).flatten(1).amax(1)
        return largest.nan_to_num(torch.inf).quantile(torch.tensor(QUANTILES, dtype=torch.float64))

    theirs = errors(torch.from_numpy(run([each.numpy() for each in inputs])).double())
    allowed = 2 * errors(decision(*inputs).double()) + ROUNDING
    if not (theirs <= allowed).all():
        raise UserError(
            f"the export's actions differ from the policy's: quantiles {QUANTILES} of the error are "
            f"{[f'{each:.1e}' for each in theirs.tolist()]} of the actions' range, expected at most "
            f"{[f'{each:.1e}' for each in allowed.tolist()]}; nothing was written"
        )


@contextmanager
def exportable(kind: Format = "onnx") -> Iterator[None]:
    """Context in which a flow's calls are traced as PyTorch's own operators, without warnings of the exporters' own."""
    # One line for each of torchvision's ops that it does not find.
    noisy = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        # Exporters trace with autograd's machinery, which tensors made in inference mode cannot enter.
        # Inductor compiles no scan over a number of rows that it does not know.
        inlined = inline_definitions(scan=kind != "aoti")
        with inlined, torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "# The axis name: rows will not be used", UserWarning)
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        noisy.setLevel(before)


class OnnxPolicy:
    """An exported policy under ONNX Runtime, for the evaluator.

    Args:
        path: a file that `export` wrote.

    Raises:
        UserError: it is no ONNX file, or not one of `export`.
    """

    def __init__(self, path: Path) -> None:
        self._session = _session(path)
        try:
            text = self._session.get_modelmeta().custom_metadata_map[METADATA]
            self.description = Description(**json.loads(text))
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}: expected a policy that `nfkern export` wrote, got another ONNX model") from None
        self.history, self.chunk = self.description.history, self.description.chunk
        self.execute, self.goal_conditioned = self.description.execute, self.description.goal_size > 0

    def act(
        self, observations: np.ndarray, goals: np.ndarray | None = None, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Return actions (n, chunk, action_size), as `Policy.act`.

        Raises:
            ValueError: a shape does not fit, or goals are missing or unwanted.
        """
        sizes = self.history, self.description.observation_size
        check_inputs(observations, goals, sizes, self.goal_conditioned)
        given = {"observations": observations, "goals": goals}
        if self.description.noise_size:
            given["noise"] = torch.randn(len(observations), self.description.noise_size, generator=generator).numpy()
        found: np.ndarray = self._session.run(None, {name: given[name] for name in self.description.inputs})[0]
        return found


def _session(path: Path) -> Any:
    import onnxruntime

    if not path.is_file():
        raise UserError(f"{path}: expected an ONNX file, found none")
    options = onnxruntime.SessionOptions()
    # One decision is too small for threads to help, and episodes may run in several processes.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class of their own
        raise UserError(f"{path}: expected an ONNX file, and ONNX Runtime says: {error}") from None


def _any_rows(example: tuple[torch.Tensor, ...]) -> Any:
    """Return dynamic shapes for exporters: any number of rows, the same for all inputs."""
    rows = torch.export.Dim("rows")
    first, *rest = ({0: rows} for _ in example)
    return (first, tuple(rest)) if rest else (first,)


def _write_onnx(decision: Decision, example: tuple[torch.Tensor, ...], path: Path) -> None:
    names = list(decision.description.inputs)
    program = torch.onnx.export(
        decision,
        example,
        dynamo=True,
        verbose=False,
        dynamic_shapes=_any_rows(example),
        input_names=names,
        output_names=["actions"],
    )
    assert program is not None
    proto = program.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(asdict(decision.description))
    path.write_bytes(proto.SerializeToString())


def _run_onnx(path: Path) -> Run:
    session = _session(path)
    names = [each.name for each in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))[0]


def _program(decision: Decision, example: tuple[torch.Tensor, ...]) -> torch.export.ExportedProgram:
    return torch.export.export(decision, example, dynamic_shapes=_any_rows(example))


def _write_pt2(decision: Decision, example: tuple[torch.Tensor, ...], path: Path) -> None:
    described = {f"{METADATA}.json": json.dumps(asdict(decision.description))}
    torch.export.save(_program(decision, example), path, extra_files=described)


def _write_aoti(decision: Decision, example: tuple[torch.Tensor, ...], path: Path) -> None:
    torch._inductor.aoti_compile_and_package(_program(decision, example), package_path=str(path))


def _run_torch(load: Callable[[Path], Callable[..., torch.Tensor]]) -> Callable[[Path], Run]:
    def loaded(path: Path) -> Run:
        call = load(path)
        return lambda inputs: call(*map(torch.from_numpy, inputs)).numpy()

    return loaded


_WRITERS: dict[str, Callable[[Decision, tuple[torch.Tensor, ...], Path], None]] = {
    "onnx": _write_onnx,
    "pt2": _write_pt2,
    "aoti": _write_aoti,
}
_LOADERS: dict[str, Callable[[Path], Run]] = {
    "onnx": _run_onnx,
    "pt2": _run_torch(lambda path: torch.export.load(path).module()),
    "aoti": _run_torch(lambda path: torch._inductor.aoti_load_package(str(path))),
}
