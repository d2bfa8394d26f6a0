"""The C++ extension that is missing, that does not load, that cannot be built; and the calls that it does not take."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import flows
from support.selected import selected

from nfkern.kernels import CouplingParameters, backend_reasons, registered_backends
from nfkern.kernels.coupling import cpu_kernels
from nfkern.kernels.dispatch import native_extension, registry

ROOT = Path(__file__).parents[3]
COUPLING = [name for name in registry._ops if name.startswith("coupling")]


@pytest.fixture
def found_again():
    """What is known of the extension is forgotten, before and after."""
    for cached in (native_extension.device_reasons, registry._say_once):
        cached.cache_clear()
    yield
    for cached in (native_extension.device_reasons, registry._say_once):
        cached.cache_clear()


def missing(monkeypatch, folder):
    monkeypatch.setattr(native_extension, "find_spec", lambda name: None)
    monkeypatch.setattr(native_extension, "KERNELS", folder)
    return f"the C++ extension is not built: {native_extension.BUILD}"


def of_another_torch(monkeypatch, folder):
    missing(monkeypatch, folder)
    (folder / "_native_2_9.cpython-311-x86_64-linux-gnu.so").touch()
    here = f"torch {native_extension.TORCH} on Python {platform.python_version()}"
    there = "_native_2_9.cpython-311-x86_64-linux-gnu.so"
    return f"the C++ extension is {there}, and this is {here}: {native_extension.BUILD}"


def on_another_system(monkeypatch, folder):
    monkeypatch.setattr(sys, "platform", "darwin")
    return "the C++ extension is for Linux, and this is darwin"


def not_loading(monkeypatch, folder):
    def fail():
        raise ImportError("undefined symbol: of another torch")

    monkeypatch.setattr(native_extension, "find_spec", lambda name: object())
    monkeypatch.setattr(native_extension, "load", fail)
    said = "the C++ extension does not load (undefined symbol: of another torch); build it again"
    return f"{said}: {native_extension.BUILD}"


@pytest.mark.parametrize("broken", [missing, of_another_torch, on_another_system, not_loading])
def test_without_the_extension_all_runs_on_the_reference(broken, found_again, monkeypatch, tmp_path):
    reason = broken(monkeypatch, tmp_path)
    assert set(registered_backends("cpu").values()) == {"reference"}
    for name in COUPLING:
        assert list(backend_reasons(name, "cpu")) == [reason]
    assert native_extension.instruction_sets() == []
    assert native_extension.instruction_set() is None
    flow = flows.make_flow("paper", torch.float32)
    x, context = flows.make_inputs(flow, 5)
    with pytest.warns(RuntimeWarning, match="nfkern runs on its reference on cpu") as said:
        flow(x, context).mean().backward()
    # Once, not at every call.
    (warning,) = said
    assert reason in str(warning.message)
    assert flow.hidden_weight.grad.abs().max() > 0
    assert flow.sample((), context).shape == x.shape


def test_reasons():
    flow = flows.make_flow("paper", torch.float32)
    parameters = CouplingParameters(*(p.detach() for p in flow._parameters_tuple))
    x = torch.randn(3, flow.features)
    assert cpu_kernels.reasons(x, parameters, None) == []
    assert cpu_kernels.reasons(x, parameters, torch.float32) == []
    assert cpu_kernels.reasons(x, parameters, torch.bfloat16) == []
    assert cpu_kernels.reasons(x.double(), parameters, None) == []
    assert cpu_kernels.reasons(x.half(), parameters, None) == ["torch.float16: the kernels take float32 and float64"]
    (reason,) = cpu_kernels.reasons(x, parameters, torch.float16)
    assert reason == "compute_dtype torch.float16: the kernels take that of x, or bfloat16 for float32"
    assert len(cpu_kernels.reasons(x.double(), parameters, torch.bfloat16)) == 1
    assert cpu_kernels.reasons(x[:0], parameters, None) == ["no rows"]


def test_calls_with_a_reason_run_on_the_reference(monkeypatch):
    """No kernel is called, and the results are the reference's bit by bit."""

    def refuse():
        raise AssertionError("the extension was called")

    monkeypatch.setattr(cpu_kernels, "load", refuse)
    flow = flows.make_flow("paper", torch.float32)
    parameters = CouplingParameters(*(p.detach() for p in flow._parameters_tuple))
    x, term = torch.randn(3, flow.features), torch.randn(3, flow.blocks, 2, flow.hidden[0])
    mixing, log_det = flow.mixing_lu.detach(), torch.zeros(())
    half = [t.half() for t in (x, term, mixing, log_det)]
    cases = [
        (x, term, mixing, log_det, *parameters, 1e-5, None, torch.float16),
        (*half, *(p.half() for p in parameters), 1e-5, None, None),
        (x[:0], term[:0], mixing, log_det, *parameters, 1e-5, None, None),
    ]
    for arguments in cases:
        for op in ("coupling_to_latent", "coupling_to_data"):
            called = getattr(torch.ops.nfkern, op)(*arguments)
            expected = getattr(torch.ops.nfkern, f"{op}_reference")(*arguments)
            assert all(torch.equal(a, e) for a, e in zip(called, expected, strict=True))


@pytest.mark.usefixtures("_native")
def test_instruction_sets_are_chosen_by_name():
    available = native_extension.instruction_sets()
    assert available[-1] == "portable"
    before = native_extension.instruction_set()
    assert before == available[0]
    for name in available:
        with native_extension.use_instruction_set(name):
            assert native_extension.instruction_set() == name
    with pytest.raises(ZeroDivisionError), native_extension.use_instruction_set("portable"):
        raise ZeroDivisionError
    assert native_extension.instruction_set() == before


@pytest.mark.usefixtures("_native")
def test_an_instruction_set_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"name: expected one of (.*, )?portable, got sse9") as caught:
        native_extension.load().choose_instruction_set("sse9")
    known = str(caught.value).split("expected one of ")[1].split(", got")[0].split(", ")
    assert set(native_extension.instruction_sets()) <= set(known)
    for name in set(known) - set(native_extension.instruction_sets()):
        with pytest.raises(ValueError, match=f"this machine does not have {name}"):
            native_extension.load().choose_instruction_set(name)
    assert native_extension.instruction_set() == native_extension.instruction_sets()[0]


def build_extension(tmp_path, **environment):
    build = [f"--build-lib={tmp_path / 'lib'}", f"--build-temp={tmp_path / 'temp'}"]
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", *build],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("compiler", selected(["false", "a script"], ["a script"], part="wheel"))
def test_a_compiler_that_fails_is_a_build_that_fails(compiler, tmp_path):
    script = tmp_path / "c++"
    script.write_text("#!/bin/sh\necho 'c++: internal compiler error' >&2\nexit 1\n")
    script.chmod(0o755)
    command = {"false": "false", "a script": str(script)}[compiler]
    run = build_extension(tmp_path, CC=command, CXX=command)
    assert run.returncode != 0
    message = run.stderr[run.stderr.index("nfkern: the native CPU kernels could not be built") :].strip()
    assert "python setup.py build_ext --inplace" in message
    assert "NFKERN_NATIVE=0" in message
    assert len(message.splitlines()) <= 3
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"CXX": "/nowhere/c++ -m64"}, "there is no C++ compiler (/nowhere/c++)"),
        ({"NFKERN_NATIVE": "0"}, "NFKERN_NATIVE is 0"),
    ],
)
def test_without_a_compiler_nothing_is_built_and_it_is_said(environment, reason, tmp_path):
    run = build_extension(tmp_path, **environment)
    assert run.returncode == 0, run.stderr
    assert run.stderr == f"nfkern: no native CPU kernels are built, for {reason}; all runs on the reference\n"
    assert not list(tmp_path.rglob("*_native*"))
