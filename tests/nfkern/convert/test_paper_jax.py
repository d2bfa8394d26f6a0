"""The paper's JAX checkpoints: the same function from every kind of file. `make_stored.py` made the numbers."""

import collections
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import nfkern
from nfkern.convert import paper_jax
from nfkern.convert.initial import initial_mixing

STORED = Path(__file__).parent / "stored"
RNGS = ("original", "partitionable")


def stored(rng="partitionable"):
    arrays = load_file(STORED / f"paper_jax_{rng}.safetensors")
    return arrays, {key.removeprefix("source."): each for key, each in arrays.items() if key.startswith("source.")}


def nested(tensors):
    """The dicts of dicts of NumPy's arrays that the names stand for."""
    tree = {}
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        place = tree
        for key in path:
            place = place.setdefault(key, {})
        place[last] = tensor.numpy()
    return tree


def assert_same(converted, arrays):
    # The originals ran in float32.
    flow, encoder = converted.flow.double(), converted.encoder.double()
    wanted = {name: each.double() for name, each in arrays.items()}
    with torch.no_grad():
        contexts = encoder(wanted["observations"])
        noise, log_det = flow.to_latent(wanted["x"], contexts)
        sampled, log_prob = flow.to_data(wanted["z"], contexts)[0], flow.log_prob(wanted["x"], contexts)
    found = {"contexts": contexts, "noise": noise, "log_det": log_det, "sampled": sampled, "log_prob": log_prob}
    for name, each in found.items():
        torch.testing.assert_close(each, wanted[name], rtol=1e-6, atol=4e-6)


@pytest.mark.parametrize("rng", RNGS)
def test_the_function_is_the_same(rng, tmp_path):
    arrays, source = stored(rng)
    converted = paper_jax(source)
    assert converted.flow.config | {"hidden": [4 + 5, 4], "norm_eps": 1e-6} == converted.flow.config
    assert converted.encoder.config["norm_eps"] == 1e-6
    assert_same(converted, arrays)
    converted.save_pretrained(tmp_path / "out")
    assert torch.equal(nfkern.CouplingFlow.from_pretrained(tmp_path / "out").permutation, converted.flow.permutation)


def test_msgpack_and_pickles(tmp_path):
    arrays, source = stored()
    assert_same(paper_jax(STORED / "paper_jax.msgpack"), arrays)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "params.pkl").write_bytes(pickle.dumps(nested(source), protocol))
        assert_same(paper_jax(tmp_path / "params.pkl"), arrays)


def test_arrays_of_jax_itself(tmp_path):
    jax = pytest.importorskip("jax")
    arrays, source = stored()
    tree = jax.tree_util.tree_map(jax.numpy.asarray, nested(source))
    assert_same(paper_jax(tree), arrays)
    (tmp_path / "params.pkl").write_bytes(pickle.dumps(tree))
    assert_same(paper_jax(tmp_path / "params.pkl"), arrays)


def test_permutations_are_those_of_jax():
    # Of jax 0.10.2: `jax.nn.initializers.orthogonal()(PRNGKey(0), (7, 7))`, and `jax.scipy.linalg.lu` of it.
    expected = {"original": [1, 3, 0, 6, 5, 2, 4], "partitionable": [1, 3, 5, 0, 2, 6, 4]}
    for rng in RNGS:
        assert initial_mixing(7, rng).permutation.tolist() == expected[rng]


def test_factors_far_from_the_first_need_the_argument():
    source = stored("original")[1]
    for k in range(3):
        source[f"model.params.blocks_{k}.l.L"] *= 40
    with pytest.raises(ValueError, match="rng: expected 'original' .* or 'partitionable'"):
        paper_jax(source)
    first, second = (paper_jax(source, rng=rng).flow.permutation for rng in RNGS)
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="rng: expected None"):
        paper_jax(source, rng="old")


def test_an_offline_agent():
    arrays, source = stored()
    agent = {
        **{
            f"agent.network.params.modules_{ours}.{name.removeprefix(f'{theirs}.params.')}": each
            for ours, theirs in (("actor", "model"), ("actor_encoder", "encoder"))
            for name, each in source.items()
            if name.startswith(theirs)
        },
        "agent.network.params.modules_critic.Dense_0.kernel": torch.zeros(2, 3, 4),
        "agent.rng": torch.zeros(2, dtype=torch.int64),
    }
    agent |= {name.replace("params", "opt_state.0.mu"): each for name, each in agent.items() if "params" in name}
    converted = paper_jax(agent)
    assert converted.flow.inverted
    assert converted.unused == ("agent.network.params.modules_critic.Dense_0.kernel", "agent.rng")
    converted.flow.inverted = False
    assert_same(converted, arrays)
    assert not paper_jax(agent, inverted=False).flow.inverted


def test_several_encoders_need_the_argument():
    arrays, source = stored()
    source |= {name.replace("encoder", "other"): each for name, each in source.items() if name.startswith("encoder")}
    with pytest.raises(ValueError, match=r"encoder: expected one of 'encoder.params.', 'other.params.'"):
        paper_jax(source)
    assert_same(paper_jax(source, encoder="encoder.params"), arrays)
    with pytest.raises(ValueError, match="encoder: expected one of .*, got 'third.'"):
        paper_jax(source, encoder="third")


def test_damage_is_named():
    source = stored()[1]
    del source["model.params.blocks_1.s.layers_3.bias"]
    source["model.params.blocks_1.s.layers_4.bias"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"missing \[blocks.1.s.3.bias\], unknown \[blocks.1.s.4.bias\]"):
        paper_jax(source)
    with pytest.raises(ValueError, match=r"one array called blocks_0.l.L, got none"):
        paper_jax({})


class Calls:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def claims():
    """Pickles that claim more than they hold."""
    array = pickle.dumps({"a": np.ones(6)}, 2)
    assert b"K\x06\x85" in array
    return {
        "shape": (array.replace(b"K\x06\x85", b"J\x00\x00\x00\x40\x85"), "bytes, got shape"),
        "objects": (pickle.dumps({"a": np.array([{}])}, 4), "without bytes"),
        "length": (b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"abc.", "damaged"),
        "memo": (b"\x80\x02}r\xff\xff\xff\x7f.", "index 2147483647"),
        "class": (pickle.dumps({"a": collections.Counter()}), "asks for collections.Counter; nothing of it was run"),
        "numpy": (pickle.dumps({"a": Calls(np.ndarray, (1 << 40,))}), "damaged"),
        "file": (pickle.dumps({"a": Calls(open, "run", "w")}), r"asks for (_io|io).open"),
        "twice": (pickle.dumps(Calls(eval, "1")), "asks for builtins.eval"),
        "half": (pickle.dumps({"a": np.ones(6)})[:-20], "damaged"),
    }


@pytest.mark.parametrize("name", list(claims()))
def test_hostile_pickles(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, message = claims()[name]
    (tmp_path / "params.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=f"source: .*{message}"):
        paper_jax(tmp_path / "params.pkl")
    assert [path.name for path in tmp_path.iterdir()] == ["params.pkl"]


def test_objects_of_distrax_are_left_out(tmp_path, monkeypatch):
    # Offline RL's checkpoints have one: its base density.
    arrays, source = stored()
    distrax = types.ModuleType("distrax")
    distrax.Normal = type("Normal", (), {"__module__": "distrax"})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "distrax", distrax)
        prior = distrax.Normal()
        prior.loc = np.zeros(3)
        (tmp_path / "params.pkl").write_bytes(pickle.dumps(nested(source) | {"prior": prior}))
    converted = paper_jax(tmp_path / "params.pkl")
    assert_same(converted, arrays)
    assert converted.unused == ()


def test_dicts_in_dicts_without_end(tmp_path):
    tree = {"leaf": np.ones(1)}
    for _ in range(40):
        tree = {"a": tree, "b": tree}
    (tmp_path / "params.pkl").write_bytes(pickle.dumps(tree))
    with pytest.raises(ValueError, match="expected at most 100000 entries"):
        paper_jax(tmp_path / "params.pkl")


def test_hostile_msgpack(tmp_path):
    whole = (STORED / "paper_jax.msgpack").read_bytes()
    damaged = {
        "half": (whole[:-100], "damaged"),
        "dtype": (whole.replace(b"\xa7float32", b"\xa7objectX", 1), "dtype 'objectX'"),
        "wider": (whole.replace(b"\xa7float32", b"\xa7float64", 1), "bytes of float64, got the shape"),
        "length": (b"\x81\xa1a\xdd\xff\xff\xff\xff", "damaged"),
    }
    for name, (data, message) in damaged.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"source: .*{message}"):
            paper_jax(tmp_path / name)
