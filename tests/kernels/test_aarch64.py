"""The kernels' code for 64-bit ARM, run by qemu, against the reference."""

import re
import subprocess

import pytest
import torch
from support import aarch64, causal_problems
from support.coupling_problems import (
    DIRECTIONS,
    GRADIENT_NAMES,
    compare,
    compare_in_float64,
    gradients,
    mapping,
    problem,
    random_gradients,
    scores,
)
from support.selected import selected

from nfkern.kernels.dispatch import registry
from nfkern.kernels.dispatch.examples import every_example

pytestmark = pytest.mark.usefixtures("_native")
BF16 = torch.bfloat16


@pytest.fixture(scope="module", params=selected(aarch64.COMPILERS, ["aarch64-gcc"], part="arm"))
def machine(request):
    with aarch64.use(request.param) as machine:
        yield machine


def test_every_op_equals_the_reference(machine):
    for example, arguments in every_example().items():
        if "bfloat16" in example:
            continue  # whole flows have it, below
        op = registry._ops[example.partition(" ")[0]]
        results = op.reference(*arguments)
        results = results if isinstance(results, list | tuple) else [results]
        # The reference keeps nothing for derivatives.
        compared = [i for i, result in enumerate(results) if result.numel()]

        def call(*arguments, op=op, compared=compared, compute_dtype=None):
            results = op(*arguments)
            return [results[i] for i in compared] if isinstance(results, list | tuple) else [results]

        names = [f"{example}: result {i}" for i in compared]
        compare(call, arguments, names, terms=64)
        compare_in_float64(call, arguments, names, terms=64)
    assert machine.called == set(aarch64.FUNCTIONS)


SHAPES = {
    "paper": {"rows": 21, "groups": 7},
    "odd_widths": {"hidden": (33, 21), "rows": 9, "groups": 9},
    # More than a chunk of rows.
    "two_chunks": {"hidden": (24, 40), "rows": 259, "groups": 7, "blocks": 1},
}


@pytest.mark.parametrize("shape", list(SHAPES))
def test_coupling_flows(shape, machine):
    x, term, matrices, parameters, settings = problem(**SHAPES[shape])
    sweep, _ = scores(settings)
    names = ("x", "log_det", "score")
    cases = [(sweep, (matrices[False][0], *matrices[True], parameters), names, 40)]
    for direction in DIRECTIONS:
        given, weights = (*matrices[direction == "to_data"], parameters), random_gradients(x)
        call = mapping(direction, settings)
        cases.append((call, given, names[:2], 40))
        cases.append((gradients(direction, settings), (*given, weights), GRADIENT_NAMES, len(x) * 40))
        compare(call, (x, term, *given), names[:2], 40, BF16)
    for call, given, results, terms in cases:
        compare(call, (x, term, *given), results, terms)
        compare_in_float64(call, (x, term, *given), results, terms)


@pytest.mark.parametrize("options", [{"rows": 33, "groups": 33}, {"rows": 1, "groups": 1}], ids=str)
def test_causal_flows(options, machine):
    arguments, settings = causal_problems.problem(**options)
    for call, count in zip(causal_problems.calls(settings), (2, 2, 3), strict=True):
        names = causal_problems.NAMES[:count]
        compare(call, arguments, names, 64)
        compare_in_float64(call, arguments, names, 64)
        compare(call, arguments, names, 64, BF16)


def innermost_loops(function):
    """Each loop without another branch in it, as lines of a disassembled function."""
    lines = re.findall(r"^ +([0-9a-f]+):\t(.*)$", function, re.MULTILINE)
    places = {address: i for i, (address, _) in enumerate(lines)}
    after_branch = 0
    for i, (_, instruction) in enumerate(lines):
        branch = re.match(r"(?:b\.\w+|b|cbn?z|tbn?z|bl|ret)\t?(?:.* )?([0-9a-f]*)(?: <.*)?$", instruction)
        if not branch:
            continue
        first = places.get(branch[1], i + 1)
        if after_branch <= first <= i:
            yield [text for _, text in lines[first : i + 1]]
        after_branch = i + 1


def test_products_keep_their_sums_in_registers(machine):
    """Two of five instructions in the loops of whole tiles multiply vectors, and no vector lies on the stack."""
    code = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", machine.program],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    whole = set()
    for function in re.findall(r"<\w*(?:multiply|tile)If\w*>:\n(.*?)(?=\n\n|\Z)", code, re.DOTALL):
        for loop in innermost_loops(function):
            sums = len([line for line in loop if re.match(r"fmla\tv\d+\.4s", line)])
            if sums < 12:
                continue
            assert 5 * sums >= 2 * len(loop), loop
            assert not [line for line in loop if re.search(r"\t[qds]\d+, .*\[sp", line)], loop
            whole.add(sums)
    # Sixteen sums of two vectors, and twelve of one.
    assert whole >= {12, 16}
