"""A save that could not be loaded fails when saving, and a file of nonsense when loading; both leave what was there."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import flows
from torch.nn.utils import parametrizations, parametrize, prune

import nfkern


class Subclass(nfkern.CouplingFlow):
    """Takes other arguments than its config has."""

    def __init__(self, size):
        super().__init__(size, 3, blocks=2, hidden=(8, 8))


class Gain(nfkern.CouplingFlow):
    """Has a setting that its config does not have."""

    def __init__(self, *args, gain=1.0, **options):
        super().__init__(*args, **options)
        self.gain = gain


class Hidden(nfkern.CouplingFlow):
    """Has a setting of its own that its config does not have, and that is not public."""

    def __init__(self, *args, gain=1.0, **options):
        super().__init__(*args, **options)
        self._gain = gain


def set_attribute(name, value):
    return lambda module: setattr(module, name, value)


def nan_weight(module):
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] = float("nan")


def double_bias(module):
    module.hidden_bias = torch.nn.Parameter(module.hidden_bias.double())


def flow():
    return flows.make_flow("paper", torch.float32)


def encoder():
    return nfkern.Encoder(3, 4, width=8, layers=1)


def nothing(module):
    return module


CASES = {
    "parametrised": (flow, lambda m: parametrizations.weight_norm(m, "hidden_weight"), "parametri"),
    "orthogonal": (
        encoder,
        lambda m: parametrizations.orthogonal(m[0], "weight"),
        "parametrisations and pruning permanent",
    ),
    "pruned": (flow, lambda m: prune.l1_unstructured(m, "hidden_weight", 0.5), "pruning permanent"),
    "pruned inside": (
        encoder,
        lambda m: prune.l1_unstructured(m[0], "weight", 0.5),
        "pruning permanent",
    ),
    "subclass": (lambda: Subclass(4), nothing, "config: expected the arguments of Subclass"),
    "setting of a subclass": (lambda: Gain(4, gain=2.0), nothing, "gain: expected 1.0 as the config says, got 2.0"),
    "private setting": (lambda: Hidden(4, gain=2.0), nothing, "_gain: expected 1.0 as the config says, got 2.0"),
    "appended": (encoder, lambda m: m.append(torch.nn.Tanh()), "4: expected None as the config says, got 'Tanh'"),
    "added": (flow, set_attribute("extra", torch.nn.Identity()), "extra: expected None .*, got 'Identity'"),
    "same name": (
        encoder,
        lambda m: m.__setitem__(2, type("SiLU", (torch.nn.Module,), {})()),
        "2: expected 'SiLU' as the config says, got another 'SiLU'",
    ),
    "patched forward": (flow, set_attribute("forward", print), "forward: expected the method of CouplingFlow, got ano"),
    "patched inside": (encoder, lambda m: setattr(m[2], "forward", print), "2.forward: expected the method of SiLU"),
    "no permutation": (
        flow,
        set_attribute("permutation", torch.zeros(2, 4, dtype=torch.int64)),
        "expected 3 permutations of 0 to 5",
    ),
    "meta": (flow, lambda m: m.to("meta"), "expected weights with values, got context_weight on the meta device"),
    "norm_eps": (flow, set_attribute("norm_eps", 1e-3), "norm_eps: expected 1e-05 as the config says, got 0.001"),
    "scale_bound": (flow, set_attribute("scale_bound", 2.0), "scale_bound: expected None"),
    "inverted": (flow, set_attribute("inverted", True), "inverted: expected False"),
    "bounds": (flow, set_attribute("bounds", "tanh"), "bounds: expected None as the config says, got 'tanh'"),
    "heads": (lambda: flows.make_causal(dtype=torch.float32), set_attribute("heads", 4), "heads: expected 2"),
    "config": (flow, lambda m: m.config.update(colour=1), "config: expected the arguments of CouplingFlow"),
    "other config": (flow, lambda m: m.config.update(blocks=2), "module: expected the weights"),
    "activation": (
        encoder,
        lambda m: m.__setitem__(2, torch.nn.ReLU()),
        "2: expected 'SiLU' as the config says, got 'ReLU'",
    ),
    "epsilon inside": (
        encoder,
        lambda m: setattr(m[1], "eps", 0.1),
        "1.eps: expected 1e-05",
    ),
    "another weight": (flow, lambda m: m.register_buffer("extra", torch.zeros(2)), r"others: \['extra'\]"),
    "NaN": (flow, nan_weight, "expected finite weights, got context_weight with NaN"),
    "two dtypes": (flow, double_bias, "weights of one floating-point dtype"),
}


def test_what_is_restored_otherwise_is_saved(tmp_path):
    module = flow()
    x, context = torch.randn(5, *module.event_shape), torch.randn(5, module.context_features)
    # Filled caches, notes, and torch's own attributes are nothing that gets lost.
    module(x, context)
    module.note, module._compiled_call_impl = "of mine", print
    module.permutation = module.permutation.flip(0)
    module.save_pretrained(tmp_path / "saved")
    assert torch.equal(nfkern.CouplingFlow.from_pretrained(tmp_path / "saved").permutation, module.permutation)


@pytest.mark.parametrize("case", list(CASES))
def test_what_could_not_be_loaded_is_not_saved(case, tmp_path):
    make, change, message = CASES[case]
    module = make()
    change(module)
    with pytest.raises(ValueError, match=message):
        module.save_pretrained(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_made_permanent_it_is_saved(tmp_path):
    module = flow()
    parametrizations.weight_norm(module, "hidden_weight")
    parametrize.remove_parametrizations(module, "hidden_weight")
    prune.l1_unstructured(module, "input_weight", 0.5)
    prune.remove(module, "input_weight")
    module.save_pretrained(tmp_path / "saved")
    restored = nfkern.CouplingFlow.from_pretrained(tmp_path / "saved")
    assert torch.equal(restored.input_weight, module.input_weight)


def test_a_subclass_that_takes_its_config_is_saved(tmp_path):
    Gain(4).save_pretrained(tmp_path / "saved")
    assert isinstance(Gain.from_pretrained(tmp_path / "saved"), Gain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.int(), "one floating-point dtype, got .*torch.int32"),
        (lambda w: w.bool(), "one floating-point dtype"),
        (lambda w: w * (1 + 1j), "one floating-point dtype, got .*torch.complex64"),
        (lambda w: w.to(torch.float8_e4m3fn), "one floating-point dtype, got .*torch.float8_e4m3fn"),
        (lambda w: w.half(), "one floating-point dtype"),
        (lambda w: w / 0, "expected finite weights, got .*_weight with NaN or infinity"),
    ],
)
@pytest.mark.parametrize("every", [False, True])
def test_weights_that_are_none_are_not_loaded(change, message, every, tmp_path):
    flow().save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / "model.safetensors"
    weights = load_file(file)
    changed = {name: change(w) if every or name == "hidden_weight" else w for name, w in weights.items()}
    save_file(changed, file)
    if every and changed["hidden_weight"].dtype == torch.float16:
        assert nfkern.CouplingFlow.from_pretrained(tmp_path / "saved").hidden_weight.dtype == torch.float16
        return
    with pytest.raises(ValueError, match=message):
        nfkern.CouplingFlow.from_pretrained(tmp_path / "saved")


@pytest.mark.slow
def test_shards_are_named():
    from torch.distributed import HashStore, destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        module, mesh = flow(), init_device_mesh("cpu", (1,))
        module.hidden_weight = torch.nn.Parameter(distribute_tensor(module.hidden_weight.detach(), mesh, [Shard(0)]))
        for call in (module.freeze, lambda: module.save_pretrained("never")):
            with pytest.raises(TypeError, match="hidden_weight: expected a whole tensor, got a DTensor; .*full_tensor"):
                call()
        encoder = torch.nn.Linear(7, 3)
        encoder.weight = torch.nn.Parameter(distribute_tensor(encoder.weight.detach(), mesh, [Shard(0)]))
        with pytest.raises(TypeError, match="encoder.weight: expected a whole tensor, got a DTensor"):
            flow().freeze(encoder=encoder)
    finally:
        destroy_process_group()


def test_a_save_leaves_the_random_numbers_alone(tmp_path):
    module = flow()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    module.save_pretrained(tmp_path / "saved")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("name", "value"), [("features", 10**12), ("inverted", "false")])
def test_settings_that_are_none_are_not_loaded(name, value, tmp_path):
    flow().save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / "config.json"
    header = json.loads(file.read_text())
    header["config"][name] = value
    file.write_text(json.dumps(header))
    with pytest.raises(ValueError, match="path: settings in .* do not fit|inverted: expected True or False"):
        nfkern.CouplingFlow.from_pretrained(tmp_path / "saved")
