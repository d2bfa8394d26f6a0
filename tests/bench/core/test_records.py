"""Records on disk."""

import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from support.bench_records import record, refused

from nfkern.bench.core import environment as environment_module
from nfkern.bench.core import records as storage
from nfkern.bench.core.environment import clock_state, current_environment
from nfkern.bench.registry import VARIANTS
from nfkern.errors import UserError


def test_round_trip(tmp_path):
    saved = [record("eager"), refused("nfkern"), replace(record("jax"), quantiles=None, skipped="needs the module jax")]
    path = tmp_path / "new" / "records.jsonl"
    storage.write(path, saved)
    assert storage.read(path) == saved
    assert [p.name for p in path.parent.iterdir()] == ["records.jsonl"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    storage.write(path, [record()])
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        storage.write(path, [record("a"), record("b")])
    assert storage.read(path) == [record()]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data | {"format_version": 99}, "format_version: expected 1, got 99"),
        (lambda data: {k: v for k, v in data.items() if k != "work"}, "differ from this version's in work"),
        (lambda data: data | {"surprise": 1}, "differ from this version's in surprise"),
        (lambda data: data | {"environment": {"device": "cpu"}}, "fields: "),
        (lambda data: [data], "not a benchmark record"),
    ],
)
def test_foreign_lines_are_errors_that_name_the_line(tmp_path, spoil, reason):
    path = tmp_path / "records.jsonl"
    storage.write(path, [record()])
    with path.open("a") as file:
        file.write(json.dumps(spoil(storage.to_json(record()))) + "\n")
    with pytest.raises(UserError, match="line 2: .*") as error:
        storage.read(path)
    assert reason in str(error.value)


def test_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        storage.read(tmp_path / "absent.jsonl")


def test_environment_names_what_a_number_depends_on():
    environment = current_environment(torch.device("cpu"))
    assert environment.versions["torch"] == torch.__version__
    for name in {name for variant in VARIANTS.values() for name in variant.requires}:
        assert (name in environment.versions) == (find_spec(name) is not None), name
    assert environment.cores >= 1
    assert torch.backends.cpu.get_cpu_capability() in environment.device_name
    assert set(environment.backends.values()) <= {"native", "reference"}
    assert clock_state(torch.device("cpu"))


def test_processors_of_one_name_and_two_generations_are_told_apart(monkeypatch):
    cpuinfo = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: {}\nmodel name\t: AMD EPYC\n"
    names = []
    for model in (1, 17):
        monkeypatch.setattr(environment_module, "_read", lambda path, model=model: cpuinfo.format(model))
        names.append(current_environment(torch.device("cpu")).device_name)
    assert names[0].startswith("AMD EPYC (family 25, model 1, ")
    assert names[1].startswith("AMD EPYC (family 25, model 17, ")
