"""The command line: it finds a command by name, imports it only then, and reports errors in one line."""

import importlib
import io
import os
import select
import sys
from collections.abc import Sequence
from typing import Any

import nfkern
from nfkern.algorithms.agents import listing
from nfkern.errors import UserError, closest, reason

# name -> (module of this package, attribute, summary); an attribute "X[key]" is an entry of the dictionary X.
COMMANDS = {
    "demo": (
        "algorithms.commands.demo",
        "Demo",
        "generate data, train three policies, evaluate them, write a report",
    ),
    "doctor": (
        "algorithms.commands.doctor",
        "Doctor",
        "say what this installation has and which backends would run",
    ),
    "tasks": (
        "algorithms.commands.tasks",
        "Tasks",
        "list the paper's 82 tasks, how to train them, published scores",
    ),
    "data generate": ("algorithms.commands.data", "Generate", "make a dataset with OGBench's oracles"),
    "data download": ("algorithms.commands.data", "Download", "fetch OGBench's published dataset"),
    "data import": ("algorithms.commands.data", "Import", "make a dataset from others' demonstrations"),
    "data export": ("algorithms.commands.data", "Export", "write a dataset as Minari's"),
    "data verify": ("algorithms.commands.data", "Verify", "check a dataset's files"),
    "data info": ("algorithms.commands.data", "Info", "describe a dataset"),
    **{
        f"train {name}": ("algorithms.commands.train", f"COMMANDS[{name}]", summary)
        for name, summary in listing.summaries().items()
    },
    "sweep": (
        "algorithms.sweep.sweep",
        "Sweep",
        "train many runs on Ray: algorithms x tasks x seeds of a TOML file",
    ),
    "eval": ("algorithms.commands.evaluate", "Evaluate", "measure the success of trained runs in the simulator"),
    "convert": ("convert.command", "Convert", "make a flow of a checkpoint of the paper's codes or of TarFlow"),
    "export": ("algorithms.commands.export", "Export", "write a trained policy as a file that runs without nfkern"),
    "play": ("algorithms.commands.export", "Play", "run an exported ONNX policy in the simulator"),
    "report": ("algorithms.reports.report", "Report", "write one HTML page about runs"),
    "bench run": ("bench.commands", "Run", "run a suite of benchmarks"),
    "bench compare": ("bench.report.compare", "Compare", "compare two results; exit 1 on a regression"),
    "bench guard": ("bench.report.guard", "Guard", "exit 1 where nfkern has lost its lead over eager PyTorch"),
    "bench report": ("bench.commands", "Report", "write results as one HTML page"),
    "bench quality": (
        "bench.studies.quality.study",
        "Quality",
        "how well policies fit known densities, at which cost",
    ),
    "bench success": (
        "bench.studies.success.study",
        "Success",
        "what policies reach in the simulator, at which cost",
    ),
    "bench list": ("bench.commands", "List", "list suites with their times, rows and variants"),
    "bench tables": (
        "bench.report.tables",
        "Tables",
        "write the tables of docs/records, and README's chart",
    ),
    "bench resources": ("bench.kernels.resources", "Resources", "compile the Triton kernels; exit 1 over budget"),
    "bench tune": ("bench.kernels.tune", "Tune", "time launches of the Triton kernels on this GPU and print the best"),
}

HELP = ("-h", "--help", "help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0 for success, 1 for a failed check, 2 for an error of the user, 130 if interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    # Python has None here if it was started with a closed stream, as by `>&-`.
    sys.stdout, sys.stderr = sys.stdout or io.StringIO(), sys.stderr or io.StringIO()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Replace what a terminal cannot show, such as block characters, instead of failing.
            stream.reconfigure(errors="replace")
    try:
        try:
            return _dispatch(args)
        finally:
            # Python would write the rest at exit, where an error could not be reported.
            sys.stdout.flush()
    except OSError as error:
        # Otherwise Python would report the error once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # The reader of our output, such as `head`, has seen enough.
        return 0 if isinstance(error, BrokenPipeError) else _fail("nfkern", error)


def _dispatch(args: list[str]) -> int:
    if args[:1] == ["--version"]:
        print(f"nfkern {nfkern.__version__}")
        return 0
    for words in (2, 1):
        name = " ".join(args[:words])
        if name in COMMANDS and len(args) >= words:
            return _run(name, args[words:])
    if len(args) > 1 and args[1].startswith("-") and (place := _place_of_command(args)):
        return _run(f"{args[0]} {args[place]}", [*args[1:place], *args[place + 1 :]])
    return _help(args)


def _run(name: str, args: list[str]) -> int:
    prog = f"nfkern {name}"
    try:
        command, default = _load(name), None
        if hasattr(command, "default"):
            default = command.default(args)
        from nfkern.cli.parsing import parse

        return int(parse(command, args, prog, default).run())
    except UserError as error:
        return _fail(prog, error)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("nfkern"):
            raise
        from nfkern.host.packages import install_command

        return _fail(prog, f"needs the package {error.name}: `{install_command(error.name or '')}`")
    except MemoryError as error:
        return _fail(prog, f"out of memory: {error or 'smaller batches or networks may help'}")
    except RuntimeError as error:
        # These are torch's errors for a GPU and for a CPU; importing torch to name their classes would be slow.
        if type(error).__name__ == "OutOfMemoryError":
            return _fail(prog, f"out of memory: {error}")
        if "can't allocate memory" not in str(error):
            raise
        return _fail(prog, f"out of memory: {str(error)[str(error).index('you tried') :].splitlines()[0]}")
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_gone():
            raise
        return _fail(prog, error)


def _reader_gone() -> bool:
    """Return whether the broken pipe is that of our output, rather than one between processes."""
    # Writing what is still buffered raises the error again. If nothing is, only the state of the pipe can tell.
    sys.stdout.flush()
    try:
        poll = select.poll()
        poll.register(sys.stdout, 0)
    except (OSError, ValueError):
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _fail(prog: str, error: Exception | str) -> int:
    """Print an error in one line; return its exit code."""
    text = error if isinstance(error, str) else reason(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {text}"
    print(f"{prog}: {' '.join(line.strip() for line in text.splitlines() if line.strip())}", file=sys.stderr)
    return 2


def _load(name: str) -> Any:
    module_name, attribute, _ = COMMANDS[name]
    base, _, key = attribute.rstrip("]").partition("[")
    found = getattr(importlib.import_module(f"nfkern.{module_name}"), base)
    return found[key] if key else found


def _members(group: str) -> list[str]:
    """Return the second words of a group's commands; empty for a command of one word and for an unknown name."""
    return [words[1] for words in map(str.split, COMMANDS) if words[0] == group and len(words) > 1]


def _place_of_command(args: list[str]) -> int | None:
    """Return the position of a command's second word if it stands behind options."""
    places = [place for place, arg in enumerate(args) if place and arg in _members(args[0])]
    # A word that follows an option may be its value.
    return next((place for place in places if not args[place - 1].startswith("-")), next(iter(places), None))


def _help(args: list[str]) -> int:
    asked = not args or args[0] in HELP or args[-1] in HELP
    args = args[1:] if args and args[0] in HELP else args
    words = [word for word in args if word not in HELP and not word.startswith("-")]
    group = words[0] if words and _members(words[0]) else ""
    if (asked and words == [group][: len(words)]) or (group and args == [group]):
        names = [name for name in COMMANDS if name.split()[0] == group] or list(COMMANDS)
        print(f"usage: nfkern {f'{group} ' if group else ''}<command> [options]\n")
        width = max(map(len, names))
        for name in names:
            print(f"  {name:<{width}}  {COMMANDS[name][2]}")
        print("\n`nfkern <command> --help` shows a command's options.")
        return 0
    if group and args[0] == group and args[1].startswith("-"):
        return _fail(f"nfkern {group}", f"expected one of {', '.join(_members(group))}, got {args[1]}")
    typed = " ".join(args[: 2 if args[1:2] == words[1:2] else 1])
    meant = _meant(words)
    hint = f"did you mean `nfkern {meant}`? " if meant else ""
    return _fail("nfkern", f"no command {typed!r}; {hint}`nfkern --help` lists all")


def _meant(words: list[str]) -> str | None:
    """Return the command that was probably meant, found word by word."""
    if not words:
        return None
    groups = list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    if words[0] not in groups and (whole := [name for name in COMMANDS if name.split()[1:] == words[:1]]):
        return whole[0]
    group = words[0] if words[0] in groups else closest(words[0], groups)
    if group is None:
        second = closest(words[0], [member for each in groups for member in _members(each)])
        return next((name for name in COMMANDS if name.split()[1:] == [second]), None)
    member = closest(words[1], _members(group)) if words[1:] else None
    if member:
        return f"{group} {member}"
    return group if group != words[0] else None
