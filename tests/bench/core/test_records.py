"""Records on disk."""

import json
from dataclasses import asdict, fields, replace
from importlib.util import find_spec

import pytest
import torch
from support.bench_records import record, refused

from nfkern.bench.core import environment as environment_module
from nfkern.bench.core import records as storage
from nfkern.bench.core.environment import clock_state, current_environment
from nfkern.bench.core.files import RESULTS
from nfkern.bench.core.timing import Quantiles
from nfkern.bench.registry import VARIANTS
from nfkern.errors import UserError

WITHOUT = {"peak_bytes": None}


def test_round_trip(tmp_path):
    saved = [record("eager"), refused("nfkern"), replace(record("jax"), quantiles=None, skipped="needs the module jax")]
    path = tmp_path / "new" / "records.jsonl"
    storage.write(path, saved)
    assert storage.read(path) == saved
    assert [p.name for p in path.parent.iterdir()] == ["records.jsonl"]


def test_every_committed_file_is_read_and_written_unchanged(tmp_path):
    for path in RESULTS.glob("*.json"):
        again = tmp_path / path.name
        storage.write(again, storage.read(path))
        written, committed = (map(json.loads, each.read_text().splitlines()) for each in (again, path))
        # Files from before there was such a field lack it, where it says nothing.
        assert list(written) == [WITHOUT | line | {"quantiles": filled(line["quantiles"])} for line in committed]


def filled(quantiles):
    return quantiles and {each.name: None for each in fields(Quantiles)} | quantiles


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
        (lambda data: data | {"format_version": 99}, "Invalid enum value 99 - at `$.format_version`"),
        (lambda data: {k: v for k, v in data.items() if k != "work"}, "missing required field `work`"),
        (lambda data: data | {"batch": "many"}, "Expected `int`, got `str` - at `$.batch`"),
        (lambda data: data | {"environment": {"device": "cpu"}}, "`$.environment`"),
        (lambda data: [data], "not a benchmark record"),
    ],
)
def test_foreign_lines_are_errors_that_name_the_line(tmp_path, spoil, reason):
    path = tmp_path / "records.jsonl"
    storage.write(path, [record()])
    with path.open("a") as file:
        file.write(json.dumps(spoil(asdict(record()))) + "\n")
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
