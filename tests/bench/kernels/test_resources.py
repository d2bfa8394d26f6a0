"""What is read from compiled kernels, the budget, and real compilations."""

import json
from dataclasses import replace

import pytest
import torch
from support.compiling import run_compiling

pytest.importorskip("triton", reason="kernels are compiled by Triton")

from nfkern.bench.core.cases import CASES
from nfkern.bench.kernels import resources
from nfkern.bench.kernels.binaries import TARGETS, Usage, read_amd, read_nvidia
from nfkern.bench.kernels.calls import CausalCalls, CouplingCalls
from nfkern.bench.kernels.kernel_launches import compilations
from nfkern.bench.kernels.resources import chosen_calls
from nfkern.errors import UserError
from nfkern.kernels.causal.triton_launch import LAUNCHES as CAUSAL_LAUNCHES
from nfkern.kernels.coupling.triton_launch import LAUNCHES

RESOURCES = """
Resource usage:
 Common:
  GLOBAL:0
 Function flow_kernel:
  REG:168 STACK:16 SHARED:1024 LOCAL:0 CONSTANT[0]:704 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
ASSEMBLY = """
	code for sm_90a
		Function : flow_kernel
	.headerflags	@"EF_CUDA_TEXMODE_UNIFIED"
        /*0000*/                   LDC R1, c[0x0][0x28] ;             /* 0x00000a00ff017b82 */
                                                                      /* 0x000fe20000000800 */
        /*0010*/                   STL.64 [R1], R2 ;                  /* 0x0000000201007387 */
        /*0020*/              @!P0 FFMA R4, R5, R6, R4 ;              /* 0x0000000605047223 */
        /*0030*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24 ;
        /*0040*/              @P1  LDL.64 R2, [R1] ;
        /*0050*/                   HMMA.1688.F32.TF32 R8, R4, R6, R8 ;
        /*0060*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24 ;
"""
AMD = """
\ts_load_dwordx2 s[2:3], s[0:1], 0x0
\tv_mfma_f32_16x16x16_bf16 a[0:3], v[0:1], v[2:3], a[0:3]
\tv_fmac_f32_e32 v1, v2, v3
\tv_pk_fma_f32 v[0:1], v[2:3], v[4:5], v[0:1]
    .private_segment_fixed_size: 8
    .agpr_count:     4
    .vgpr_count:     100
    .vgpr_spill_count: 1
    .sgpr_spill_count: 2
"""
SOUND = Usage(registers=168, stack=0, spills=0, shared=40_000, matrix="HGMMA 24", multiply_adds=100)


def compiled(calls, *arithmetics, target="sm_90"):
    return list(compilations(((each, arithmetics) for each in calls), target))


@pytest.fixture(scope="module")
def ogbench():
    calls = (CouplingCalls(CASES["ogbench"], rows, bound=bound) for rows in (1, 600) for bound in (None, 2.0))
    return compiled(calls, "ieee", "bf16")


def only(found, kernel, mode, arithmetic="bf16"):
    return next(c for c in found if (c.kernel, c.mode, c.arithmetic) == (kernel, mode, arithmetic))


def test_nvidia_output_is_read():
    assert read_nvidia(RESOURCES, ASSEMBLY, 4096) == Usage(168, 16, 2, 5120, "HGMMA 2 HMMA 1", 1)
    with pytest.raises(ValueError, match="expected cuobjdump's REG"):
        read_nvidia("nothing", ASSEMBLY, 0)


def test_amd_output_is_read():
    assert read_amd(AMD, 2048) == Usage(104, 8, 3, 2048, "MFMA 1", 2)
    # Of graphics cards.
    assert read_amd(AMD.replace("v_mfma_f32", "v_wmma_f32"), 2048).matrix == "WMMA 1"


def test_the_budget(ogbench):
    flow = only(ogbench, "flow_kernel", "to_data")
    plain = only(ogbench, "flow_kernel", "to_data", "ieee")
    h100, mi300 = resources.BUDGETS["sm_90"], resources.BUDGETS["gfx942"]
    assert resources.broken(flow, SOUND, h100) == ()
    assert resources.broken(flow, replace(SOUND, stack=8, spills=2), h100) == ()
    spilled = replace(SOUND, registers=255, stack=8, spills=2)
    assert resources.broken(flow, spilled, h100) == ("spills registers: 8 bytes of stack, 2 instructions",)
    assert resources.broken(flow, replace(SOUND, stack=24), h100)
    assert resources.broken(flow, replace(SOUND, matrix=""), h100) == (
        "no matrix instructions, though its products are in bf16",
    )
    assert resources.broken(plain, replace(SOUND, matrix=""), h100) == ()
    assert resources.broken(flow, replace(SOUND, shared=70_000), mi300) == (
        "70000 bytes of shared memory, where a program can have 65536",
    )


def test_a_broken_budget_is_exit_code_1(monkeypatch, tmp_path, capsys, ogbench):
    chosen = [only(ogbench, "flow_kernel", "to_data"), only(ogbench, "flow_kernel", "to_latent")]
    monkeypatch.setattr(resources, "compilations", lambda *args, **options: chosen)

    def measure(target, chosen, jobs, used=SOUND):
        for each in chosen:
            yield resources.Line(target, each, used, resources.broken(each, used, resources.BUDGETS[target]))

    monkeypatch.setattr(resources, "measure", measure)
    assert resources.Resources().run() == 0
    assert "2 kernels compiled, 0 over budget" in capsys.readouterr().out
    bad = replace(SOUND, registers=255, stack=400, spills=90)
    monkeypatch.setattr(resources, "measure", lambda *args: measure(*args, used=bad))
    with pytest.raises(UserError, match="--json: expected a file, got the folder"):
        resources.Resources(match="to_data", json=tmp_path).run()
    assert resources.Resources(match="to_data", json=tmp_path / "table.json").run() == 1
    out = capsys.readouterr().out
    assert "over budget: sm_90 flow " in out
    assert "1 kernels compiled, 1 over budget" in out
    (entry,) = json.loads((tmp_path / "table.json").read_text())
    assert entry["target"] == "sm_90"
    assert entry["broken"] == ["spills registers: 400 bytes of stack, 90 instructions"]
    with pytest.raises(UserError, match="--match: no kernel's line contains 'fly'"):
        resources.Resources(match="fly").run()


@pytest.mark.slow
def test_every_entry_of_both_tables_of_launches_is_compiled():
    found = {
        (c.kernel, "half" if c.arithmetic == "bf16" else c.arithmetic, c.launch)
        for c in compilations(chosen_calls(("widest", "causal")))
    }
    kernels = {"flow": "flow_kernel", "step": "forward_step_kernel", "product": "product_kernel"}
    products = {("product", arithmetic): entries for arithmetic, entries in CAUSAL_LAUNCHES.items()}
    for (kernel, arithmetic), entries in (LAUNCHES | products).items():
        for _, launch in entries:
            tiles = f"{launch.tile}x{launch.chunk1}x{launch.chunk2} {launch.warps}w {launch.stages}s"
            assert (kernels[kernel], arithmetic, tiles) in found


def test_modes_and_types(ogbench):
    flow = only(ogbench, "flow_kernel", "to_data")
    types = dict(flow.signature)
    assert (types["x"], types["hidden_weight"], types["count"], types["norm_eps"]) == ("*fp32", "*bf16", "i32", "fp32")
    assert types["TILE"] == "constexpr"
    modes = {c.mode for c in ogbench if c.kernel == "backward_step_kernel"}
    directions = [f"{mode}{bound}" for mode in ("to_latent", "to_data") for bound in ("", " bounded")]
    assert modes == {*directions, *(f"{each} store" for each in directions), "score", "score bounded"}
    assert all(dict(c.constants).get("PDL", True) for c in ogbench)
    without = compiled([CouplingCalls(CASES["ogbench"], 1)], "ieee", target="sm_80")
    assert not any(dict(c.constants).get("PDL") for c in without)


@pytest.mark.slow
def test_a_causal_flow_needs_few_kernels():
    """One for all positions and layers, and two of the blocks': an odd block's biases lie at odd addresses."""
    found = compiled([CausalCalls(CASES["causal_4"], 1)], "ieee")
    assert {c.mode for c in found if c.kernel == "product_kernel"} == {"norm", "residual", "norm gelu"}
    assert len([c for c in found if c.kernel == "attention_kernel"]) == 1
    tokens = [c for c in found if c.kernel == "token_kernel"]
    assert len(tokens) == 12
    assert all(dict(c.signature)["place"] == "i32" for c in tokens)
    longer = compiled([CausalCalls(CASES["causal_8"], 1)], "ieee")
    assert {c.key for c in longer if c.kernel in ("product_kernel", "token_kernel")} == {
        c.key for c in found if c.kernel in ("product_kernel", "token_kernel")
    }


@pytest.mark.parametrize(
    ("target", "arithmetic", "precision"),
    [
        ("sm_90", "ieee", "ieee"),
        ("sm_90", "tf32", "tf32"),
        ("sm_90", "bf16", "tf32x3"),
        ("gfx942", "tf32", "tf32"),
        ("gfx942", "bf16", "ieee"),
        ("gfx1100", "tf32", "ieee"),
        ("gfx1100", "bf16", "ieee"),
    ],
)
def test_products_of_float32_numbers_are_no_coarser_than_allowed(target, arithmetic, precision):
    """Beside hidden products in 16 bits, too; AMD's other targets refuse to compile tf32."""
    calls = CouplingCalls(CASES["ogbench"], 1), CouplingCalls(CASES["ogbench"], 600), CausalCalls(CASES["causal_2"], 1)
    found = [dict(each.constants) for each in compiled(calls, arithmetic, target=target)]
    chosen = {each[name] for each in found for name in ("PRECISION", "SINGLE") if name in each}
    assert chosen == {precision}


def test_the_switch_for_tf32_is_restored():
    before = torch.backends.cuda.matmul.fp32_precision
    compiled([CouplingCalls(CASES["ogbench"], 1)], "tf32")
    assert torch.backends.cuda.matmul.fp32_precision == before


def compile_within_budget(target, arithmetics, chosen=slice(None)):
    """Each kernel in each arithmetic and launch, in the mode that holds most; `nfkern bench resources` has all modes.

    With a single arithmetic, in one launch alone.
    """
    code = f"""
from nfkern.bench.kernels.binaries import usage
from nfkern.bench.kernels.kernel_launches import compilations
from nfkern.bench.kernels.resources import BUDGETS, broken, chosen_calls, title
chosen = {{}}
calls = chosen_calls(("ogbench", "causal"), {(1, 5000) if len(arithmetics) == 1 else resources.ROWS}, {arithmetics})
for each in compilations(calls, "{target}"):
    key = (each.kernel, each.arithmetic, each.launch) if len({arithmetics}) > 1 else each.kernel
    if key not in chosen or any(word in each.mode for word in ("store", "gelu", "move embed")):
        chosen[key] = each
kernels = {{each.kernel for each in chosen.values()}}
assert {{"flow_kernel", "forward_step_kernel", "backward_step_kernel", "compose_kernel"}} <= kernels
assert {{"product_kernel", "attention_kernel", "token_kernel", "causal_affine_backward_kernel"}} <= kernels
for each in list(chosen.values())[{chosen}]:
    used = usage(each, "{target}")
    assert not broken(each, used, BUDGETS["{target}"]), (title(each), used)
    assert used.registers, title(each)
"""
    result = run_compiling(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("first", range(3))
def test_every_kernel_compiles_within_its_budget(first):
    """A third of them at a time."""
    compile_within_budget("sm_90", ("bf16",), slice(first, None, 3))


@pytest.mark.exhaustive(part="targets")
@pytest.mark.parametrize("target", list(TARGETS))
def test_every_launch_compiles_within_its_budget(target):
    compile_within_budget(target, resources.arithmetics_of(target))


@pytest.mark.exhaustive(part="targets")
def test_tritons_own_launcher_compiles_the_same_code(tmp_path):
    """Its driver, which would need a GPU, only has to say what the GPU is."""
    code = """
from types import SimpleNamespace
from triton.runtime import driver
from nfkern.bench.kernels.binaries import TARGETS, compile_kernel, warm_up
from nfkern.bench.kernels.kernel_launches import compilations
from nfkern.bench.kernels.resources import chosen_calls
target = TARGETS["sm_90"]
driver.set_active(SimpleNamespace(
    get_current_target=lambda: target, get_current_device=lambda: 0, get_current_stream=lambda device: 0,
))
first = {}
for each in compilations(chosen_calls(("ogbench", "causal"), (1,), ("bf16",)), "sm_90"):
    first.setdefault((each.kernel, each.kernel == "token_kernel" and each.aligned), each)
kernels = [kernel for kernel, _ in first]
assert {"forward_step_kernel", "backward_step_kernel", "product_kernel", "attention_kernel"} <= {*kernels}
# With biases at round addresses, and at others.
assert kernels.count("token_kernel") == 2
for each in first.values():
    ours, theirs = compile_kernel(each, target), warm_up(each)
    assert ours.asm["ptx"] == theirs.asm["ptx"], each.kernel
    assert ours.metadata.launch_pdl == theirs.metadata.launch_pdl == ("PDL" in dict(each.constants)), each.kernel
"""
    # A cache of its own: code from another checkout would name that one's files.
    result = run_compiling(code, TRITON_CACHE_DIR=str(tmp_path))
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_interpreter_compiles_nothing():
    code = """
from nfkern.bench.kernels.binaries import TARGETS, compile_kernel
from nfkern.bench.kernels.kernel_launches import Compilation
module = "nfkern.kernels.coupling.triton_kernels"
compile_kernel(Compilation(module, "flow_kernel", "bf16", "", (), (), (), ()), TARGETS["sm_90"])
"""
    assert "UserError: TRITON_INTERPRET is set" in run_compiling(code, TRITON_INTERPRET="1").stderr
