"""Every op: gradcheck, opcheck and compile(fullgraph), and the switch between native kernels and reference."""

import functools
import itertools

import pytest
import torch
from support import flows
from support.layouts import LAYOUTS, broken_promises, relaid
from support.op_cases import examples_over_seeds, problem, with_gradients
from support.selected import exhaustive, selected

from nfkern.kernels import CouplingParameters, compose, coupling, registered_backends, use_reference
from nfkern.kernels import standard_normal_log_prob as base
from nfkern.kernels.dispatch import registry
from nfkern.kernels.dispatch.examples import every_example, examples

OPS = list(registry._ops)


def directed(flow, direction, settings):
    """A function of tensors only, PLU included, for gradcheck and compile."""

    def call(x, term, lu, *parameters):
        matrices = compose(lu, flow.permutation, direction == "to_data")
        return getattr(coupling, direction)(x, term, *matrices, CouplingParameters(*parameters), **settings)

    return call


@pytest.mark.parametrize("bound", [None, 1.5])
@pytest.mark.parametrize(("groups", "per_group"), [(4, 1), (1, 4), (2, 2)])
@pytest.mark.parametrize("direction", ["to_latent", "to_data"])
def test_gradcheck(direction, groups, per_group, bound):
    flow, x, term, settings = problem(4, groups, per_group, bound=bound)
    inputs = [t.detach().clone().requires_grad_() for t in (x, term, flow.mixing_lu, *flow._parameters_tuple)]
    assert torch.autograd.gradcheck(directed(flow, direction, settings), inputs, fast_mode=True)


@pytest.mark.parametrize("used", [0, 1])
@pytest.mark.parametrize("direction", ["to_latent", "to_data"])
def test_a_result_that_is_not_used_has_a_gradient_of_zeros(direction, used):
    """Autograd hands the other one's gradient over as None."""
    flow, x, term, settings = problem()
    inputs = [t.detach().clone().requires_grad_() for t in (x, term, flow.mixing_lu, *flow._parameters_tuple)]
    results = directed(flow, direction, settings)(*inputs)
    gradients = [torch.zeros_like(result) for result in results]
    gradients[used] = torch.randn_like(gradients[used])
    expected = torch.autograd.grad(results, inputs, gradients, retain_graph=True, materialize_grads=True)
    actual = torch.autograd.grad(results[used], inputs, gradients[used], materialize_grads=True)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("inverse", [False, True])
def test_gradcheck_of_compose(inverse):
    flow = flows.make_flow(features=4, blocks=2)
    lu = flow.mixing_lu.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: compose(v, flow.permutation, inverse), lu)


def test_gradcheck_of_the_base():
    assert torch.autograd.gradcheck(base, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_base_equals_torchs_normal(rank):
    z = torch.randn(*[3] * rank, dtype=torch.float64)
    torch.testing.assert_close(base(z), torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1))


@pytest.mark.parametrize("features", [2, 3, 17, 64])
def test_compose_gives_inverses_and_their_log_det(features):
    flow = flows.make_flow(features=features, blocks=2)
    matrix, log_det = compose(flow.mixing_lu, flow.permutation)
    inverse, inverse_log_det = compose(flow.mixing_lu, flow.permutation, inverse=True)
    identity = torch.eye(features, dtype=torch.float64).expand(2, -1, -1)
    torch.testing.assert_close(matrix @ inverse, identity, rtol=0, atol=1e-10)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(matrix)[1].sum())
    assert log_det == -inverse_log_det


def test_every_op_has_examples():
    assert set(examples()) == set(OPS)


@pytest.mark.parametrize("variant", ["", exhaustive("_reference", part="sweeps")])
@pytest.mark.parametrize("example", [*OPS, *(f"{name} kept" for name in examples(variant="kept"))])
def test_opcheck(example, variant):
    name = example.partition(" ")[0]
    op = getattr(torch.ops.nfkern, name + variant).default
    torch.library.opcheck(op, with_gradients(name, every_example()[example]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameter_grads", "variant"),
    selected(
        itertools.product((False, True), ("folded", "folded bfloat16")),
        ((False, "folded"), (True, "folded bfloat16")),
        part="sweeps",
    ),
)
@pytest.mark.parametrize("name", list(examples(variant="folded")))
def test_opcheck_of_folded_parameters(name, parameter_grads, variant):
    arguments = list(examples(variant=variant)[name])
    if name.endswith("backward"):
        arguments[-1] = parameter_grads
    elif registry._ops[name].differentiable and parameter_grads:
        arguments[:4] = [a.clone().requires_grad_() for a in arguments[:4]]
    torch.library.opcheck(getattr(torch.ops.nfkern, name).default, tuple(arguments))


QUICK = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize("checks", [QUICK, exhaustive("test_aot_dispatch_dynamic", part="sweeps")])
@pytest.mark.parametrize("name", OPS)
def test_opcheck_over_seeds(name, checks):
    op = getattr(torch.ops.nfkern, name).default
    torch.library.opcheck(op, with_gradients(name, examples_over_seeds()[name]), test_utils=checks)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", ["", "_reference"])
@pytest.mark.parametrize("name", OPS)
def test_results_lie_as_the_fake_kernel_promises(name, variant, layout):
    op = getattr(torch.ops.nfkern, name + variant).default
    assert broken_promises(op, relaid(examples()[name], layout)) == []


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("variant", ["", "_reference"])
def test_vmap_is_one_call_per_seed(name, variant):
    op = getattr(torch.ops.nfkern, name + variant).default
    arguments = list(examples_over_seeds()[name])
    tensors = [i for i, a in enumerate(arguments) if isinstance(a, torch.Tensor)]
    dims = [0 if i in tensors else None for i in range(len(arguments))]
    # The first tensor's seeds lie last, and the last tensor is the same for all.
    first, shared = tensors[0], tensors[-1]
    arguments[first], dims[first] = arguments[first].movedim(0, -1), -1
    if shared != first:
        arguments[shared], dims[shared] = arguments[shared][0], None
    actual = torch.vmap(op, tuple(dims))(*arguments)
    for seed in range(2):
        mine = [a if d is None else a.select(d, seed) for a, d in zip(arguments, dims, strict=True)]
        expected = op(*mine)
        of_seed = actual[seed] if isinstance(actual, torch.Tensor) else tuple(each[seed] for each in actual)
        torch.testing.assert_close(of_seed, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("direction", ["to_latent", "to_data"])
def test_gradcheck_over_seeds(direction):
    problems = [problem(4, 2, 2, bound=1.5, seed=seed) for seed in range(2)]
    flow, _, _, settings = problems[0]
    leaves = [[x, term, f.mixing_lu, *f._parameters_tuple] for f, x, term, _ in problems]
    inputs = [torch.stack(each).detach().requires_grad_() for each in zip(*leaves, strict=True)]
    # The last parameter is shared: its gradient is the sum over seeds.
    inputs[-1] = inputs[-1][0].detach().requires_grad_()
    call = torch.vmap(directed(flow, direction, settings), (*[0] * (len(inputs) - 1), None))
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)


def test_gradcheck_of_the_base_over_seeds():
    assert torch.autograd.gradcheck(torch.vmap(base), torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True))


def test_seeds_within_seeds():
    lu = torch.stack([flows.make_flow(seed=seed).mixing_lu.detach() for seed in range(4)])
    permutation = flows.make_flow().permutation
    matrix, log_det = torch.vmap(torch.vmap(lambda v: compose(v, permutation)))(lu.unflatten(0, (2, 2)))
    for seed in range(4):
        expected = compose(lu[seed], permutation)
        torch.testing.assert_close((matrix.flatten(0, 1)[seed], log_det.flatten()[seed]), expected)


def test_errors_under_vmap_show_one_seeds_shapes():
    flow, x, term, settings = problem()
    call = torch.vmap(directed(flow, "to_latent", settings), (0, *[None] * (2 + len(flow._parameters_tuple))))
    with pytest.raises(ValueError, match=r"x: expected shape \(rows, 5\), got \(6, 4\)"):
        call(torch.zeros(2, 6, 4, dtype=x.dtype), term, flow.mixing_lu, *flow._parameters_tuple)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["to_latent", exhaustive("to_data", part="sweeps")])
def test_compiles_as_one_graph(direction):
    flow, x, term, settings = problem(dtype=torch.float32)
    inputs = [t.detach().clone().requires_grad_() for t in (x, term, flow.mixing_lu, *flow._parameters_tuple)]
    call = directed(flow, direction, settings)
    compiled = torch.compile(call, fullgraph=True)
    grads = []
    for function in (call, compiled):
        z, log_det = function(*inputs)
        grads.append((z, log_det, *torch.autograd.grad(z.sum() + log_det.sum(), inputs)))
    for expected, actual in zip(*grads, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.slow
def test_the_whole_module_compiles_as_one_graph():
    flow = flows.make_flow("paper", torch.float32)
    x, context = flows.make_inputs(flow, 8)
    calls = {
        "log_prob": lambda: flow(x, context),
        "denoised": lambda: flow.sample_denoised(0.1, (), context, deterministic=True),
        "score": lambda: flow.score(x, context),
    }
    for call in calls.values():
        torch.testing.assert_close(torch.compile(call, fullgraph=True)(), call())


@pytest.mark.slow
def test_sampling_compiles_for_any_batch():
    flow = flows.make_flow("paper", torch.float32)
    for call in (flow.sample, functools.partial(flow.sample_denoised, 0.1)):
        compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
        for rows in (8, 5):
            assert compiled((3,), torch.zeros(rows, flow.context_features)).shape == (3, rows, flow.features)


def test_double_backward_is_refused():
    flow = flows.make_flow()
    x, context = flows.make_inputs(flow, 3)
    (grad,) = torch.autograd.grad(flow(x.requires_grad_(), context).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="not differentiable"):
        grad.sum().backward()


def test_the_score_op_refuses_a_gradient():
    arguments = examples()["coupling_to_data_with_score"]
    z = arguments[0].clone().requires_grad_()
    _, _, score = torch.ops.nfkern.coupling_to_data_with_score(z, *arguments[1:])
    with pytest.raises(RuntimeError, match="score of a coupling flow is not differentiable"):
        score.sum().backward()


@pytest.mark.usefixtures("_native")
@pytest.mark.filterwarnings("ignore:Warning only once for all operators")
def test_use_reference_passes_native_kernels_by():
    native = torch.library.Library("nfkern", "IMPL")
    z = torch.randn(3, 4)
    try:
        native.impl("standard_normal_log_prob", lambda z: z.new_full(z.shape[:-1], 7.0), "CPU", allow_override=True)
        assert registered_backends("cpu")["standard_normal_log_prob"] == "native"
        assert (base(z) == 7).all()
        with use_reference():
            assert registered_backends("cpu")["standard_normal_log_prob"] == "reference"
            assert not (base(z) == 7).any()
        assert (base(z) == 7).all()
    finally:
        native._destroy()
    assert not (base(z) == 7).any()


def test_inputs_are_never_written():
    flow, x, term, settings = problem()
    before = [t.detach().clone() for t in (x, term, *flow.parameters())]
    directed(flow, "to_latent", settings)(x, term, flow.mixing_lu, *flow._parameters_tuple)[0].sum().backward()
    for now, then in zip((x, term, *flow.parameters()), before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a | {"x": a["x"][:, :3]}, ValueError, r"x: expected shape \(rows, 5\), got \(6, 3\)"),
        (lambda a: a | {"context_term": a["context_term"][:, :2]}, ValueError, r"context_term: expected shape"),
        (lambda a: a | {"context_term": a["context_term"].repeat(2, 1, 1, 1)[:4]}, ValueError, "groups dividing 6"),
        (lambda a: a | {"context_term": a["context_term"].float()}, TypeError, "context_term: expected torch.float64"),
        (lambda a: a | {"mixing": a["mixing"].float()}, TypeError, "mixing: expected torch.float64"),
    ],
)
def test_bad_input_names_the_argument(change, error, message):
    flow, x, term, settings = problem()
    mixing, log_det = compose(flow.mixing_lu, flow.permutation)
    arguments = {"x": x, "context_term": term, "mixing": mixing, "mixing_log_det": log_det}
    with pytest.raises(error, match=message):
        coupling.to_latent(**change(arguments), parameters=flow._parameters_tuple, **settings)


def test_compose_refuses_wrong_shapes():
    with pytest.raises(ValueError, match=r"lu: expected shape .* got \(3, 4\)"):
        compose(torch.randn(3, 4), torch.zeros(3, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"permutation: expected shape \(2, 4\), got \(4,\)"):
        compose(torch.randn(2, 4, 4), torch.arange(4))
