"""The C++ extension that is missing, that does not load, that cannot be built; and the calls that it does not take."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import flows
from support.selected import selected

from nfkern.algorithms.commands import doctor
from nfkern.algorithms.evaluation import video
from nfkern.kernels import CouplingParameters, backend_reasons, registered_backends
from nfkern.kernels.coupling import cpu_kernels
from nfkern.kernels.dispatch import native_extension, registry

COUPLING = [name for name in registry._ops if name.startswith("coupling")]


@pytest.fixture
def found_again():
    """What is known of the extension is forgotten, before and after."""
    for cached in (native_extension.device_reasons, registry._say_once):
        cached.cache_clear()
    yield
    for cached in (native_extension.device_reasons, registry._say_once):
        cached.cache_clear()


def missing(monkeypatch):
    monkeypatch.setattr(native_extension, "find_spec", lambda name: None)
    return "the C++ extension is not built"


def not_loading(monkeypatch):
    def fail():
        raise ImportError("undefined symbol: of another torch")

    monkeypatch.setattr(native_extension, "find_spec", lambda name: object())
    monkeypatch.setattr(native_extension, "load", fail)
    return "the C++ extension does not load (undefined symbol: of another torch); build it again"


@pytest.mark.parametrize("broken", [missing, not_loading])
def test_without_the_extension_all_runs_on_the_reference(broken, found_again, monkeypatch, capsys, tmp_path):
    reason = broken(monkeypatch)
    assert set(registered_backends("cpu").values()) == {"reference"}
    for name in COUPLING:
        (found,) = backend_reasons(name, "cpu")
        assert found.startswith(reason)
        assert "python setup.py build_ext --inplace" in found
    assert native_extension.instruction_sets() == []
    assert native_extension.instruction_set() is None
    flow = flows.make_flow("paper", torch.float32)
    x, context = flows.make_inputs(flow, 5)
    with pytest.warns(RuntimeWarning, match="nfkern runs on its reference on cpu") as said:
        flow(x, context).mean().backward()
    # Once, not at every call.
    (warning,) = said
    assert reason in str(warning.message)
    assert "pip install --no-build-isolation" in str(warning.message)
    assert flow.hidden_weight.grad.abs().max() > 0
    assert flow.sample((), context).shape == x.shape
    monkeypatch.setattr(video, "rendering_backends", dict)
    doctor.Doctor(dataset_dir=tmp_path).run()
    out = capsys.readouterr().out
    assert reason in out
    assert "python setup.py build_ext --inplace" in out


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


@pytest.mark.slow
@pytest.mark.parametrize("compiler", selected(["false", "a script", "missing"], ["a script"], part="wheel"))
def test_a_compiler_that_fails_leaves_the_reference(compiler, tmp_path):
    """The installation goes on, says so in a few lines, and leaves no extension behind."""
    script = tmp_path / "c++"
    script.write_text("#!/bin/sh\necho 'c++: internal compiler error' >&2\nexit 1\n")
    script.chmod(0o755)
    command = {"false": "false", "a script": str(script), "missing": str(tmp_path / "nowhere")}[compiler]
    build = [f"--build-lib={tmp_path / 'lib'}", f"--build-temp={tmp_path / 'temp'}"]
    run = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", *build],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"CC": command, "CXX": command},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    message = run.stderr[run.stderr.index("nfkern: the native CPU kernels could not be built") :].strip()
    assert "python setup.py build_ext --inplace" in message
    assert len(message.splitlines()) <= 6
    assert "Traceback" not in run.stderr
    assert not list((tmp_path / "lib").rglob("*_native*"))
