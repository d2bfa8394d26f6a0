"""What comes to the ops through the dispatcher is checked, whoever computes: the kernels, or the reference."""

import re

import pytest
import torch
from support.op_cases import examples_over_seeds

from nfkern.kernels import CouplingParameters, coupling
from nfkern.kernels.dispatch import registry
from nfkern.kernels.dispatch.examples import examples

pytestmark = pytest.mark.usefixtures("_native")
CASES = examples()
variants = pytest.mark.parametrize("variant", ["", "_reference"])


def arguments_of(name):
    """Each argument's name with its type, and the case's value."""
    schema = registry._ops[name].dispatched._schema.arguments
    return list(zip(schema, CASES[name], strict=False))


def call(name, variant, index, value):
    given = list(CASES[name])
    given[index] = value
    return getattr(torch.ops.nfkern, name + variant).default(*given)


def outcome(name, variant, index, value):
    """A call's results, or what it raised for its arguments."""
    try:
        return call(name, variant, index, value)
    except (ValueError, TypeError) as error:
        return error


def called(argument):
    """An argument's name in a message: a set of parameters is named, too."""
    return rf"(parameters\.)?{re.escape(argument.name)}: "


@variants
@pytest.mark.parametrize("name", CASES)
def test_a_tensor_that_is_missing_is_named(name, variant):
    for index, (argument, value) in enumerate(arguments_of(name)):
        if isinstance(value, torch.Tensor) and str(argument.type) == "Tensor":
            with pytest.raises(TypeError, match=called(argument) + "expected a torch.Tensor, got None"):
                call(name, variant, index, None)


@variants
@pytest.mark.parametrize("name", CASES)
def test_a_tensor_of_another_kind_is_named(name, variant):
    """One more or less in every dimension but the first tensor's rows, another dtype, another device."""
    refused = 0
    for index, (argument, value) in enumerate(arguments_of(name)):
        if not isinstance(value, torch.Tensor):
            continue
        wrong = [value.to(torch.complex64), value.to(torch.int8), value.to_sparse()]
        wrong += [torch.cat([value, value.narrow(axis, 0, 1)], axis) for axis in range(value.ndim)]
        wrong += [value.narrow(axis, 1, value.shape[axis] - 1) for axis in range(value.ndim)]
        for changed in wrong:
            found = outcome(name, variant, index, changed)
            if isinstance(found, Exception):
                assert re.search(r"^[\w.]+: expected ", str(found)), found
                refused += 1
            else:
                # What alone says how many rows, outputs, positions, groups or pairs there are may have others.
                assert argument.name in ("z", "x", "weight", "position", "context_term", "pairs"), argument.name
    assert refused


@variants
@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("coupling")])
def test_half_of_a_norm_is_refused(name, variant):
    norms = [i for i, (argument, _) in enumerate(arguments_of(name)) if argument.name.startswith("norm") and i < 20]
    for index in norms[:4]:
        with pytest.raises(ValueError, match="parameters: expected all four norm tensors or None for each"):
            call(name, variant, index, None)


SETTINGS = {
    "norm_eps": (0.0, -1.0, float("nan"), float("inf")),
    "scale_bound": (0.0, -1.0, float("nan"), float("inf"), 1e-320),
    "compute_dtype": (torch.int8, torch.bool, torch.complex64, torch.float8_e5m2),
    "heads": (0, -1, 3, 1 << 40),
    "guidance": (-1.0, float("nan"), float("inf")),
    "tolerance": (-1.0, float("nan"), float("inf")),
}


@variants
@pytest.mark.parametrize("name", CASES)
def test_a_setting_out_of_range_is_named(name, variant):
    for index, (argument, _) in enumerate(arguments_of(name)):
        for value in SETTINGS.get(argument.name, ()):
            with pytest.raises(ValueError, match=f"^{argument.name}: expected"):
                call(name, variant, index, value)


@variants
@pytest.mark.parametrize("name", [name for name in CASES if registry._ops[name]._rank is not None])
def test_seeds_that_do_not_fit_are_named(name, variant):
    given = list(examples_over_seeds()[name])
    second = [index for index, value in enumerate(given) if isinstance(value, torch.Tensor)][1]
    given[second] = given[second][:1]
    argument = registry._ops[name].dispatched._schema.arguments[second].name
    with pytest.raises(ValueError, match=f"^{argument}: expected 2 seeds in front"):
        getattr(torch.ops.nfkern, name + variant).default(*given)


@variants
@pytest.mark.parametrize("direction", ["to_latent", "to_data"])
def test_kept_activations_have_to_be_those_of_the_rows(direction, variant):
    name = f"coupling_{direction}_backward"
    backward = getattr(torch.ops.nfkern, name + variant).default
    for wrong in (torch.zeros(1, dtype=torch.float64), torch.zeros(2, 2, 1, 3, 8)):
        with pytest.raises((ValueError, TypeError), match="^hidden: expected"):
            backward(*CASES[name], wrong)


@variants
def test_a_permutation_is_one(variant):
    permutation = CASES["plu_compose"][1]
    for wrong in (permutation + 1, permutation - 1, torch.zeros_like(permutation)):
        with pytest.raises(ValueError, match="permutation: expected indices from 0 to 4, each once in a block"):
            call("plu_compose", variant, 1, wrong)
    with pytest.raises(TypeError, match=r"permutation: expected torch.int64 on cpu as lu, got torch.int32"):
        call("plu_compose", variant, 1, permutation.int())


@pytest.mark.parametrize("name", CouplingParameters._fields)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("function", [coupling.to_latent, coupling.to_data, coupling.score])
def test_the_public_functions_name_what_is_missing(function, grad, name):
    x, term, matrix, log_det, *rest = CASES["coupling_to_latent"]
    parameters, x = CouplingParameters(*rest[:9])._replace(**{name: None}), x.clone().requires_grad_(grad)
    with pytest.raises((ValueError, TypeError), match=name if "norm" not in name else "all four norm tensors"):
        function(x, term, matrix, log_det, parameters)
    with pytest.raises(TypeError, match="mixing: expected a torch.Tensor, got None"):
        function(x, term, None, log_det, CouplingParameters(*rest[:9]))
