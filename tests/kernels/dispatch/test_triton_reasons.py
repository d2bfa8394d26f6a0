"""Which calls the Triton kernels take, with how many launches, and the reasons for the others."""

import dataclasses

import pytest
import torch
from support import flows

pytest.importorskip("triton", reason="the launches need Triton")

from nfkern.kernels import CausalParameters, CouplingParameters, backend_reasons, compose, coupling, use_reference
from nfkern.kernels.causal.backends import triton_reasons as causal_reasons
from nfkern.kernels.causal.reference import Settings
from nfkern.kernels.coupling.backends import triton_reasons as coupling_reasons
from nfkern.kernels.coupling.parameters import Settings as CouplingSettings
from nfkern.kernels.dispatch import registry, triton_backend
from nfkern.kernels.dispatch.triton_backend import recording, tensor_reasons


def launches(rows, call):
    """How many kernels a call on meta tensors would launch."""
    flow = flows.make_flow("paper", torch.float32).to("meta")
    mixing = torch.empty(flow.blocks, flow.features, flow.features, device="meta")
    x = torch.empty(rows, flow.features, device="meta")
    term = torch.empty(rows, flow.blocks, 2, flow.hidden[0], device="meta")
    with recording() as found:
        call(
            x, term, mixing, torch.empty((), device="meta"), flow._parameters_tuple, CouplingSettings(1e-5, None, None)
        )
    return [each.kernel.__name__ for each in found]


def test_launch_counts():
    from nfkern.kernels.coupling import triton_launch

    fold, blocks = ["fold_kernel"], 3
    assert launches(1, triton_launch.to_data) == fold + ["forward_step_kernel"] * (blocks + 1)
    assert launches(4096, triton_launch.to_latent) == [*fold, "flow_kernel"]


@pytest.mark.parametrize("prefix", [False, True])
def test_launch_counts_of_a_causal_flow(prefix):
    """Found on tensors without data: no launch can depend on any, as a CUDA graph wants it."""
    from nfkern.kernels.causal import triton_launch

    rows, tokens, blocks, layers = 3, 5, 3, 2
    flow = flows.make_causal("prefix" if prefix else "published", torch.float32).to("meta")
    parameters = CausalParameters(*(p.detach() for p in flow._parameters_tuple))
    x, term = torch.empty(rows, tokens, 3, device="meta"), torch.empty(rows, blocks, 16, device="meta")
    settings = Settings(flow.heads, prefix, 1e-5, None, None)
    launched = {}
    for name in ("to_latent", "to_data", "to_data_with_score"):
        with recording() as found:
            getattr(triton_launch, name)(x, term, parameters, settings)
        launched[name] = [each.kernel.__name__ for each in found]
    products = ["product_kernel"] * 4
    assert launched["to_latent"] == [*products * layers, "causal_affine_kernel"] * blocks
    layer = [products[0], "attention_kernel", *products[1:]]
    position = ["token_kernel", *layer * layers]
    assert launched["to_data"] == [*position * (tokens - 1 + prefix), "token_kernel"] * blocks
    assert launched["to_data_with_score"] == launched["to_data"]


def test_reasons():
    flow = flows.make_flow("paper", torch.float32)
    x = torch.randn(3, flow.features)
    parameters = CouplingParameters(*(p.detach() for p in flow._parameters_tuple))
    assert coupling_reasons(x, parameters, None) == []
    assert coupling_reasons(x.double(), parameters, None) == ["torch.float64: the kernels take float32"]
    assert "compute_dtype torch.float64" in coupling_reasons(x, parameters, torch.float64)[0]
    assert tensor_reasons(torch.empty(3, 65)) == ["65 features: the kernels hold up to 64"]
    assert tensor_reasons(torch.empty(0, 5)) == ["no rows"]
    wide = parameters._replace(hidden_weight=torch.empty(3, 2, 8, 2000))
    assert coupling_reasons(x, wide, None) == ["hidden widths (8, 2000): the kernels hold up to 1024"]


def test_reasons_of_causal_ops():
    flow = flows.make_causal(dtype=torch.float32)
    x, settings = torch.randn(3, 5, 3), Settings(flow.heads, False, 1e-5, None, torch.bfloat16)
    parameters = CausalParameters(*(p.detach() for p in flow._parameters_tuple))
    assert causal_reasons(x, parameters, settings) == []
    assert causal_reasons(x.double(), parameters, settings) == ["torch.float64: the kernels take float32"]
    assert "compute_dtype torch.int8" in causal_reasons(x, parameters, settings._replace(compute_dtype=torch.int8))[0]
    wide = parameters._replace(position=torch.empty(3, 5, 1024))
    assert causal_reasons(x, wide, settings) == ["heads of 512: the kernels hold up to 256"]
    assert "jacobi" in causal_reasons(x, parameters, settings, 1e-6)[0]


def test_a_call_with_a_reason_runs_on_the_reference():
    flow = flows.make_flow("paper")
    x, term = (torch.randn(*shape, dtype=torch.float64) for shape in ((3, 6), (3, flow.blocks, 2, flow.hidden[0])))
    arguments = (x, term, *compose(flow.mixing_lu, flow.permutation), flow._parameters_tuple)
    with use_reference():
        expected = coupling.to_latent(*arguments)
    native = registry.find_kernel("coupling_to_latent", "cuda")
    here = dataclasses.replace(native, device_reasons=lambda device: ())
    with recording() as found:
        flat = (*arguments[:4], *arguments[4], 1e-5, None, None)
        actual = registry.kernel_or_reference("coupling_to_latent", here)(*flat)
    assert not found
    assert torch.equal(actual[0], expected[0])


def test_doctor_has_a_reason_for_every_op_without_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    # On a GPU flows call PyTorch's own product, and so does the causal flow's derivative.
    without = {"linear", "causal_flow_to_latent_backward"}
    for name in without:
        assert backend_reasons(name, "cuda") == ["this version has no kernel for it"]
    for name in registry._ops.keys() - without:
        assert backend_reasons(name, "cuda") in (
            ["torch sees no CUDA or ROCm device"],
            ["the package triton is missing: CUDA builds of torch bring it"],
        )


def test_a_gpu_without_what_triton_compiles_launches_with_runs_the_reference(monkeypatch, tmp_path):
    """Said by `doctor` and by a warning, in place of an error from inside Triton at the first launch."""
    monkeypatch.setattr(triton_backend, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.delenv("CC", raising=False)
    reasons = triton_backend.device_reasons.__wrapped__
    gpu = torch.device("cuda")
    monkeypatch.setattr(triton_backend.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert reasons(gpu) == ()
    monkeypatch.setattr(triton_backend.sysconfig, "get_path", lambda name: str(tmp_path))
    assert reasons(gpu) == (f"no Python headers in {tmp_path}, which Triton needs for launches: install python3-dev",)
    monkeypatch.setattr(triton_backend.shutil, "which", lambda name: None)
    (reason,) = reasons(gpu)
    assert reason.startswith("no C compiler, which Triton needs")
    (tmp_path / "Python.h").touch()
    monkeypatch.setenv("CC", "tcc")
    assert reasons(gpu) == ()
