"""The command line: finds a command by name, imports it only then, and turns errors into one line."""

import difflib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import nfkern
from nfkern.errors import UsageError, UserError

# name -> (module, attribute, summary); an attribute "X[key]" is an entry of the dictionary X.
COMMANDS = {
    "demo": ("nfkern.algorithms.demo", "Demo", "generate data, train three policies, evaluate them, write a report"),
    "doctor": ("nfkern.algorithms.doctor", "Doctor", "say what this installation has and which backends would run"),
    "tasks": ("nfkern.algorithms.tasks", "Tasks", "list the paper's 82 tasks, how to train them, published scores"),
    "data generate": ("nfkern.algorithms.datasets.commands", "Generate", "make a dataset with OGBench's oracles"),
    "data download": ("nfkern.algorithms.datasets.commands", "Download", "fetch OGBench's published dataset"),
    "data import": ("nfkern.algorithms.datasets.commands", "Import", "make a dataset from others' demonstrations"),
    "data verify": ("nfkern.algorithms.datasets.commands", "Verify", "check a dataset's files"),
    "data info": ("nfkern.algorithms.datasets.commands", "Info", "describe a dataset"),
    **{
        f"train {name}": ("nfkern.algorithms.train_command", f"COMMANDS[{name}]", summary)
        for name, summary in {
            "nf_gcbc": "goal-conditioned behavioural cloning with a normalizing flow",
            "nf_bc": "behavioural cloning with a normalizing flow",
            "gaussian_gcbc": "OGBench's goal-conditioned behavioural cloning",
            "gaussian_bc": "behavioural cloning with a Gaussian",
            "flow_matching_gcbc": "goal-conditioned behavioural cloning with flow matching",
            "flow_matching_bc": "behavioural cloning with flow matching",
            "diffusion_gcbc": "goal-conditioned behavioural cloning with a diffusion model",
            "diffusion_bc": "behavioural cloning with a diffusion model",
            "nf_rlbc": "offline RL with a normalizing flow",
            "fql": "offline RL with a one-step policy distilled from flow matching",
            "ifql": "offline RL with an implicit value and the best of many flow-matching samples",
            "iql": "offline RL with an implicit value and a Gaussian",
            "rebrac": "offline RL with a deterministic policy near the data",
            "diffusion_ql": "offline RL with a diffusion model",
            "gciql": "goal-conditioned offline RL with an implicit value",
            "gcivl": "goal-conditioned offline RL with an implicit value and no critics",
            "hiql": "goal-conditioned offline RL with subgoals",
            "qrl": "goal-conditioned offline RL with quasimetric distances",
            "offline_crl": "goal-conditioned offline RL with contrastive critics",
            "nf_ugs": "unsupervised goal-conditioned RL in a maze, with a normalizing flow over goals",
            "crl": "contrastive goal-conditioned RL in a maze",
        }.items()
    },
    "sweep": ("nfkern.algorithms.sweep", "Sweep", "train many runs on Ray: algorithms x tasks x seeds of a TOML file"),
    "eval": ("nfkern.algorithms.evaluate_command", "Evaluate", "measure the success of trained runs in the simulator"),
    "report": ("nfkern.algorithms.report", "Report", "write one HTML page about runs"),
    "bench run": ("nfkern.bench.commands", "Run", "run a suite of benchmarks"),
    "bench compare": ("nfkern.bench.compare", "Compare", "compare two results; exit 1 on a regression"),
    "bench guard": ("nfkern.bench.guard", "Guard", "exit 1 where nfkern has lost its lead over eager PyTorch"),
    "bench report": ("nfkern.bench.commands", "Report", "write results as one HTML page"),
    "bench quality": (
        "nfkern.bench.quality.commands",
        "Quality",
        "how well policies fit known densities, at which cost",
    ),
    "bench success": (
        "nfkern.bench.success.commands",
        "Success",
        "what policies reach in the simulator, at which cost",
    ),
    "bench list": ("nfkern.bench.commands", "List", "list the benchmarks"),
    "bench tables": ("nfkern.bench.tables", "Tables", "write the tables of README from the records"),
    "bench resources": ("nfkern.bench.resources", "Resources", "compile the Triton kernels; exit 1 over budget"),
    "bench tune": ("nfkern.bench.tune", "Tune", "time launches of the Triton kernels on this GPU and print the best"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 ok, 1 a check failed, 2 usage, 130 interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows no block characters still gets the rest.
            stream.reconfigure(errors="replace")
    if args[:1] == ["--version"]:
        print(f"nfkern {nfkern.__version__}")
        return 0
    for words in (2, 1):
        name = " ".join(args[:words])
        if name in COMMANDS and len(args) >= words:
            return _run(name, args[words:])
    return _help(args)


def _run(name: str, args: list[str]) -> int:
    try:
        command, default = _load(name), None
        if hasattr(command, "default"):
            default = command.default(args)
        import tyro

        try:
            parsed = tyro.cli(command, prog=f"nfkern {name}", args=args, default=default)
        except ValueError as error:
            print(f"nfkern {name}: {error}", file=sys.stderr)
            return 2
        return int(parsed.run())
    except UserError as error:
        print(f"nfkern {name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print(f"nfkern {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output, such as `head`, has seen enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"nfkern {name}: {error}", file=sys.stderr)
        return 1


def _load(name: str) -> Any:
    module_name, attribute, _ = COMMANDS[name]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("nfkern"):
            raise
        raise UserError(f"needs the package {error.name}: `pip install 'nfkern[rl,imitation,log,bench]'`") from None
    base, _, key = attribute.rstrip("]").partition("[")
    found = getattr(module, base)
    return found[key] if key else found


def _help(args: list[str]) -> int:
    asked = not args or args[-1] in ("-h", "--help", "help")
    group = "" if not args or args[0].startswith("-") or args[0] == "help" else args[0]
    names = [name for name in COMMANDS if name.split()[0] == group] or list(COMMANDS)
    if asked or (len(args) == 1 and names != list(COMMANDS)):
        print(f"usage: nfkern {f'{group} ' if names != list(COMMANDS) else ''}<command> [options]\n")
        width = max(map(len, names))
        for name in names:
            print(f"  {name:<{width}}  {COMMANDS[name][2]}")
        print("\n`nfkern <command> --help` shows a command's options.")
        return 0
    typed = " ".join(args[:2] if len(args) > 1 and not args[1].startswith("-") else args[:1])
    close = difflib.get_close_matches(typed, COMMANDS, n=1, cutoff=0.5)
    hint = f"did you mean `nfkern {close[0]}`? " if close else ""
    print(f"nfkern: no command {typed!r}; {hint}`nfkern --help` lists all", file=sys.stderr)
    return 2
