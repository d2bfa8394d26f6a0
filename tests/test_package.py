"""The package as installed: names, imports, directions and side effects."""

import ast
import graphlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from importlib.util import resolve_name
from pathlib import Path

import pytest

import nfkern

ROOT = Path(__file__).parent.parent
LAYERS = ["kernels", "nfkern", "algorithms", "bench"]


def sources(folder):
    return [p for p in (ROOT / folder).rglob("*.py") if not any(q.is_symlink() for q in p.parents)]


def imported_layers(path):
    """The layers that a file imports, absolute or relative, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "nfkern":
                found.add(parts[1] if len(parts) > 1 and parts[1] in LAYERS else "nfkern")
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_arrows_point_one_way(layer):
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    files = sources(layer)
    assert files
    for path in files:
        # The faces of everything: they import the layers above only when they are asked for.
        if path in (ROOT / "nfkern" / "cli" / "commands.py", ROOT / "nfkern" / "__init__.py"):
            continue
        assert imported_layers(path) <= allowed, path


def package_of(layer):
    return "nfkern" if layer == "nfkern" else f"nfkern.{layer}"


def import_graph(layer):
    """The modules of a layer that each of its modules imports, also in functions and for types alone."""
    paths = {}
    for path in sources(layer):
        parts = path.relative_to(ROOT / layer).with_suffix("").parts
        paths[".".join([package_of(layer), *(part for part in parts if part != "__init__")])] = path
    graph = {}
    for module, path in paths.items():
        graph[module] = found = set()
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                home = resolve_name("." * node.level + (node.module or ""), package)
                names = {f"{home}.{alias.name}" for alias in node.names}
                found |= {name if name in paths else home for name in names}
        found &= {*paths} - {module}
    return graph


@pytest.mark.parametrize("layer", LAYERS)
def test_no_modules_and_no_rooms_import_in_circles(layer):
    """A room is a folder of the layer, or a file beside its folders."""

    def room(module):
        return module.removeprefix(package_of(layer)).lstrip(".").split(".")[0]

    modules, rooms = import_graph(layer), {}
    for module, imported in modules.items():
        rooms.setdefault(room(module), set()).update({room(each) for each in imported} - {room(module)})
    assert any(rooms.values())
    for graph in (modules, rooms):
        # Raises a CycleError that names the circle.
        graphlib.TopologicalSorter(graph).prepare()


def run(code, python=sys.executable, **options):
    # This checkout's own place on the path would hide what an environment has installed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)


def test_import_has_no_side_effects():
    code = """
import sys, torch, random, warnings
before = (torch.get_num_threads(), torch.get_default_dtype(), torch.random.get_rng_state().tolist(), random.getstate(),
          torch.is_grad_enabled(), torch.backends.cuda.matmul.allow_tf32, torch.are_deterministic_algorithms_enabled())
loaded = set(sys.modules)
watched = {"triton", "gymnasium", "ogbench", "mujoco", "matplotlib", "tensorboard", "scipy", "tyro", "subprocess"}
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in watched:
            raise SystemExit(f"imported {name}")
sys.meta_path.insert(0, Watch())
import nfkern, nfkern.kernels
for name in set(nfkern.__all__) - {"train", "evaluate", "plot"}:  # they are imported on first use
    getattr(nfkern, name)
after = (torch.get_num_threads(), torch.get_default_dtype(), torch.random.get_rng_state().tolist(), random.getstate(),
         torch.is_grad_enabled(), torch.backends.cuda.matmul.allow_tf32, torch.are_deterministic_algorithms_enabled())
assert before == after
assert not (set(sys.modules) - loaded) & watched
assert not torch.cuda.is_initialized()
"""
    result = run(code)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""


def test_kernels_refuse_a_second_name():
    result = run("import kernels", cwd=ROOT)
    assert "this package is nfkern.kernels, but was imported as 'kernels'" in result.stderr


def test_no_file_is_a_dumping_ground():
    for layer in [*LAYERS, "tests"]:
        for path in sources(layer):
            assert path.name not in ("utils.py", "helpers.py", "common.py", "misc.py"), path
            assert len(path.read_text().splitlines()) <= 500, path


def copy_of_the_tree(tmp_path):
    """Builds leave files where they run."""
    left = shutil.ignore_patterns(".*", "build", "dist", "*.so", "*.egg-info", "__pycache__")
    return Path(shutil.copytree(ROOT, tmp_path / "tree", symlinks=True, ignore=left))


def test_source_distributions_have_every_source(tmp_path):
    tree = copy_of_the_tree(tmp_path)
    (tree / "kernels" / "_native_2_9.so").touch()
    build = subprocess.run(
        [sys.executable, "-c", f"import setup; setup.build_sdist({str(tmp_path)!r})"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stderr
    (archive,) = tmp_path.glob(f"nfkern-{nfkern.__version__}.tar.gz")
    with tarfile.open(archive) as tar:
        found = {name.partition("/")[2] for name in tar.getnames()}
    for folder, suffixes in {
        "kernels": (".py", ".cpp", ".h", ".inc"),
        "nfkern": (".py", ".typed"),
        "algorithms": (".py",),
        "bench": (".py", ".html", ".css", ".js", ".json"),
        "tests": (".py", ".toml", ".json"),
    }.items():
        paths = {path for path in (tree / folder).rglob("*") if path.suffix in suffixes}
        expected = {str(path.relative_to(tree)) for path in paths if not any(p.is_symlink() for p in path.parents)}
        assert expected
        assert expected <= found
    assert {"setup.py", "pyproject.toml", "constraints.txt", "LICENSE", "README.md"} <= found
    assert not [name for name in found if name.endswith(".so")]


@pytest.mark.parametrize("installed", [True, False])
def test_isolated_builds_take_the_torch_that_is_installed(installed, tmp_path):
    """pip runs the hooks by the environment's Python, and hides its packages."""
    overlay, site = tmp_path / "overlay", tmp_path / "site"
    overlay.mkdir()
    for package in ("setuptools", "_distutils_hack"):
        (overlay / package).symlink_to(Path(sysconfig.get_path("purelib")) / package)
    if installed:
        (site / "torch").mkdir(parents=True)
        (site / "torch" / "__init__.py").touch()
    code = f"""
import sys, sysconfig
hidden = sysconfig.get_path("purelib")
sys.path[:] = [{str(overlay)!r}, *(path for path in sys.path if path not in ("", hidden)), {str(ROOT)!r}]
sysconfig.get_path = lambda name: {str(site)!r}
import setup
print(setup.get_requires_for_build_wheel({{}}), setup.get_requires_for_build_sdist(), {str(site)!r} in sys.path)
"""
    found = run(code)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == ("['ninja'] [] True" if installed else "['ninja', 'torch>=2.10'] [] False")


def test_versions_agree():
    assert f"\nversion: {nfkern.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.exhaustive(part="wheel")
def test_wheel_installs_and_imports_alone(tmp_path):
    build = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stderr
    (wheel,) = tmp_path.glob("nfkern-*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    # torch and its dependencies are borrowed from this environment: downloading them again would need the network.
    import torch

    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    (site / "borrowed.pth").write_text(str(Path(torch.__file__).parent.parent))
    code = """
import importlib.util, pathlib, nfkern, nfkern.kernels, nfkern.algorithms, nfkern.bench, torch
assert pathlib.Path(nfkern.__file__).is_relative_to(r"{env}"), nfkern.__file__
for name in ("kernels", "algorithms", "bench", "tests"):
    assert importlib.util.find_spec(name) is None, name
assert (pathlib.Path(nfkern.__file__).parent / "py.typed").exists()
assert nfkern.kernels.dispatch.native_extension.instruction_sets(), "no native kernels in the wheel"
flow = nfkern.CouplingFlow(4, 3, blocks=2, hidden=(8, 8))
print(tuple(flow.sample((5,), torch.zeros(3)).shape))
"""
    result = run(code.replace("{env}", str(tmp_path / "env")), python=str(python), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "(5, 4)"


def test_the_optimiser_is_there_without_an_import_of_its_own():
    code = "import nfkern; nfkern.optim.FlowAdamW(nfkern.CouplingFlow(2))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
