"""The README's examples work: its Python runs, its commands run (with small sizes)."""

import doctest
import importlib
import re
import shlex
from pathlib import Path

import pytest
from support.boxes import write_random
from support.published_demonstrations import write_zarr

from nfkern.cli import commands as cli

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = ("index", "flows", "training", "robots", "benchmarks", "migration")
GUIDES = [README, *(ROOT / "docs" / f"{name}.md" for name in PAGES)]
PYTHON = [code for path in GUIDES for code in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)]
COMMANDS = list(
    dict.fromkeys(
        line.split(" #")[0].strip()
        for path in GUIDES
        for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("nfkern ")
    )
)
OF_RUNS = [code for code in PYTHON if ('"runs/' in code or "policy.onnx" in code) and "nfkern.train(" not in code]
"""Examples that need what the commands have made."""
SMALL = {
    "play": "--episodes 1 --max-episode-steps 10",
    "data generate": "--transitions 2000 --workers 1",
    "train nf_gcbc": "--steps 4 --batch-size 8 --blocks 2 --hidden 8 8 --encoder-width 8 --eval-episodes 0 --quiet",
    "train gaussian_gcbc": "--steps 4 --batch-size 8 --hidden 8 --eval-episodes 0 --quiet",
    "train flow_matching_gcbc": "--steps 4 --batch-size 8 --hidden 8 --eval-episodes 0 --quiet",
    "train nf_bc": "--steps 4 --batch-size 8 --blocks 2 --hidden 8 8 --encoder-width 8 --eval-episodes 0 --quiet",
    "train nf_rlbc": "--steps 4 --batch-size 8 --blocks 2 --hidden 8 8 --encoder-width 8 --critic-hidden 8 "
    "--eval-episodes 0 --quiet",
    "train hiql": "--steps 4 --batch-size 8 --hidden 8 --critic-hidden 8 --eval-episodes 0 --quiet",
    "train nf_ugs": "--num-envs 2 --prefill-length 8 --unroll-length 4 --width 8 --layers 1 --batch-size 8 "
    "--updates-per-unroll 4 --candidates 2 --blocks 2 --hidden 8 8 --steps 4 --eval-episodes 0 --quiet",
    "eval": "--episodes-per-task 1 --max-episode-steps 10",
    "bench run": "--suite smoke --match inverse-tiny-1-",
    "bench success": "--quick --steps 2 --policies gaussian --parameters 2000 --workers 1",
    "bench quality": "--quick --steps 4 --densities pinwheel --policies nf gaussian --parameters 2000",
}


def test_the_readme_is_short_and_has_examples_for_all_three_users():
    assert len(README.read_text().splitlines()) <= 150
    assert len(PYTHON) >= 3
    names = {next(n for n in cli.COMMANDS if command.startswith(f"nfkern {n}")) for command in COMMANDS}
    assert {"data generate", "train nf_gcbc", "eval", "report", "bench run"} <= names


@pytest.mark.filterwarnings("ignore:torch.triangular_solve is deprecated:UserWarning")  # nflows
@pytest.mark.parametrize("code", [code for code in PYTHON if code not in OF_RUNS])
def test_python_examples(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def replaced(args, small):
    """The command with `small`'s values for its options, added or put in place of its own."""
    args = list(args)
    extra = shlex.split(small)
    flags = {arg for arg in extra if arg.startswith("--")}
    kept, skip = [], False
    for arg in args:
        skip = arg in flags or (skip and not arg.startswith("--"))
        if not skip:
            kept.append(arg)
    return [*kept, *extra]


@pytest.mark.slow
@pytest.mark.parametrize("benchmarks", [False, True])
def test_the_commands_one_after_the_other(benchmarks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_zarr(tmp_path / "pusht_cchi_v7_replay.zarr")
    write_random(tmp_path / "mine.npz", 10, 2)
    of_benchmarks = [command for command in COMMANDS if command.startswith("nfkern bench")]
    others = [command for command in COMMANDS if command not in of_benchmarks]
    # The study of success learns from this dataset.
    data = [command for command in others if command.startswith("nfkern data generate pointmaze")]
    for command in [*data, *of_benchmarks] if benchmarks else others:
        args = shlex.split(command)[1:]
        name = next(n for n in cli.COMMANDS if " ".join(args).startswith(n))
        if name == "demo":
            continue
        words = len(name.split())
        code = cli.main([*args[:words], *replaced(args[words:], SMALL.get(name, ""))])
        assert code == 0, (command, capsys.readouterr().err)
    if not benchmarks:
        assert len(OF_RUNS) == 3
        for code in OF_RUNS:
            exec(compile(code, "README.md", "exec"), {})


def test_links_and_paths_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        text = page.read_text()
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
            assert (page.parent / link).exists(), (page.name, link)
        if page.name != "CHANGELOG.md":
            for path in re.findall(r"`((?:kernels|nfkern|algorithms|bench|tests|docs)/[\w/.-]+)`", text):
                assert (ROOT / path).exists(), (page.name, path)


@pytest.mark.parametrize("module", ["nfkern.flows.coupling"])
def test_docstring_examples(module):
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted >= 4
    assert results.failed == 0
