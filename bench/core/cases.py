"""The named shapes that every benchmark uses: declared once, here."""

from dataclasses import dataclass

BATCHES = (1, 50, 256, 4096)
"""Control loop, parallel evaluation, training, online training."""


@dataclass(frozen=True)
class FlowCase:
    """The shape of a coupling flow, in the terms of `nfkern.CouplingFlow`."""

    name: str
    features: int
    context_features: int
    hidden: tuple[int, int] = (256, 256)
    blocks: int = 6
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class CausalCase:
    """The shape of a causal flow, in the terms of `nfkern.CausalFlow`."""

    name: str
    tokens: int
    features: int
    context_features: int
    blocks: int = 4
    layers: int = 2
    width: int = 256


@dataclass(frozen=True)
class DataCase:
    """A synthetic offline dataset: `transitions` rows in trajectories of `trajectory_length` rows."""

    name: str
    transitions: int
    observation_size: int
    action_size: int
    trajectory_length: int


Case = FlowCase | CausalCase | DataCase

_TABLE: tuple[Case, ...] = (
    FlowCase("ogbench", features=5, context_features=64),
    FlowCase("ogbench_features_8", features=8, context_features=64),
    FlowCase("ogbench_features_21", features=21, context_features=64),
    # The authors' JAX code widens the first hidden layer by the context's size.
    FlowCase("ogbench_jax", features=5, context_features=64, hidden=(320, 256), norm_eps=1e-6),
    FlowCase("chunked", features=42, context_features=256, hidden=(512, 512), blocks=12),
    # The largest that the Triton kernels take.
    FlowCase("widest", features=64, context_features=64, hidden=(1024, 1024), blocks=2),
    FlowCase("goal_density", features=2, context_features=64),
    # An action chunk; and the same network over fewer and more tokens.
    CausalCase("causal", tokens=16, features=7, context_features=256),
    *(CausalCase(f"causal_{tokens}", tokens, features=7, context_features=256) for tokens in (2, 4, 8, 32, 256)),
    CausalCase("causal_tiny", tokens=4, features=3, context_features=4, blocks=2, layers=1, width=16),
    # How time grows with a flow's features, blocks and hidden units, all else as in `ogbench`.
    *(FlowCase(f"features_{features}", features, context_features=64) for features in (2, 4, 8, 16, 32, 64)),
    *(FlowCase(f"blocks_{blocks}", features=5, context_features=64, blocks=blocks) for blocks in (1, 2, 4, 8, 16)),
    *(
        FlowCase(f"hidden_{hidden}", features=5, context_features=64, hidden=(hidden, hidden))
        for hidden in (64, 128, 256, 512, 1024)
    ),
    # For trying the suite itself: odd features, unequal widths, milliseconds.
    FlowCase("tiny", features=3, context_features=4, hidden=(16, 8), blocks=2),
    FlowCase("tiny_plane", features=2, context_features=4, hidden=(16, 8), blocks=2),
    DataCase("synthetic_100k", transitions=100_000, observation_size=29, action_size=8, trajectory_length=1000),
    DataCase("synthetic_tiny", transitions=200, observation_size=3, action_size=2, trajectory_length=50),
)

CASES: dict[str, Case] = {case.name: case for case in _TABLE}
