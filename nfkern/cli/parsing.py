"""Parse a command's arguments with tyro, and report errors in one line."""

import contextlib
import io
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from nfkern.errors import UserError, closest

Command = TypeVar("Command")

_TYPES = ConstructorRegistry()
_HELP = ("-h", "--help")
_COLOUR, _BOX, _RULE = re.compile(r"\x1b\[[0-9;]*m"), re.compile("[│╭╮╰╯]"), re.compile(r"\s*[─-]+\s*")


def parse(command: type[Command], args: Sequence[str], prog: str, default: Command | None = None) -> Command:
    """Return a command with the settings that its arguments give; `--help` prints the help and exits.

    Args:
        command: a dataclass.
        args: the words typed after its name.
        prog: its name in messages.
        default: a command with the values of settings that the arguments do not name.

    Raises:
        UserError: the arguments are wrong; the message is one line.
    """
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.nullcontext() if set(_HELP) & set(args) else _unbroken():
            found = tyro.cli(command, prog=prog, args=args, default=default, registry=_TYPES)
            return cast(Command, found)
    except ValueError as error:
        raise UserError(str(error)) from None
    except SystemExit as stop:
        if not stop.code:
            raise
    unknown = _unknown(command, args, prog, default)
    raise UserError(unknown or _in_one_line(errors.getvalue()).removeprefix(f"{command.__name__}: "))


@contextlib.contextmanager
def _unbroken() -> Iterator[None]:
    """Keep messages from being wrapped to the width of the terminal."""
    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "100000"
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _unknown(command: type[Command], args: Sequence[str], prog: str, default: Command | None) -> str | None:
    """Return the message about an option that the command does not have; None if it has all."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(command, prog=prog, args=["--help"], default=default)
    known = set(re.findall(r"--([a-z][\w.-]*)", text.getvalue()))
    options = [arg.partition("=")[0] for arg in args if re.match("--[a-zA-Z]", arg)]
    wrong = [option for option in options if option[2:].replace("_", "-") not in known]
    if not wrong:
        return None
    meant = closest(wrong[0][2:].replace("_", "-"), sorted(known))
    hint = f"did you mean --{meant}? " if meant else ""
    return f"no option {wrong[0]}; {hint}`{prog} --help` lists all"


def _in_one_line(box: str) -> str:
    """Return the message in one of tyro's boxes, without the help that it repeats."""
    # The title comes first. Without box characters, a rule stands below it.
    _, *lines = [_BOX.sub(" ", _COLOUR.sub("", line)) for line in box.splitlines()]
    message: list[str] = []
    for line in lines[1:] if _RULE.fullmatch(lines[0]) else lines:
        if _RULE.fullmatch(line):
            break
        # Descriptions of options are indented this far.
        if not line.startswith(" " * 10):
            message.append(line.strip())
    # For an optional number, tyro lists the errors of all types; keep the one about the number.
    told = re.sub(r"no type matching .* - <class '(int|float)'>: ", "", " ".join(message))
    return told.removeprefix("Error parsing ")


def _number(kind: type, read: Callable[[str], float]) -> Callable[[PrimitiveTypeInfo], Any]:
    """Return a tyro rule for one type of number."""

    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        if info.type is not kind:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=kind.__name__.upper(),
            instance_from_str=lambda args: read(args[0]),
            is_instance=lambda value: isinstance(value, (int, kind)) and not isinstance(value, bool),
            str_from_instance=lambda value: [str(value)],
        )

    return rule


def _integer(text: str) -> int:
    """Return the integer that a text means, such as 8000 or 8e3."""
    try:
        number = int(text)
    except ValueError:
        value = _finite(text, "an integer")
        if not value.is_integer():
            raise ValueError(f"expected an integer, got {text!r}") from None
        number = int(value)
    # Random generators, counters and files take no larger ones.
    if abs(number) >= 1 << 63:
        raise ValueError(f"expected an integer of 64 bits, got {text!r}")
    return number


def _finite(text: str, expected: str = "a finite number") -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    raise ValueError(f"expected {expected}, got {text!r}")


def _path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Return a tyro rule for paths that refuses an empty one, which would mean the current folder."""
    if info.type is not Path:
        return None

    def read(args: list[str]) -> Path:
        if not args[0] or "\0" in args[0]:
            raise ValueError(f"expected a path, got {args[0]!r}")
        return Path(args[0])

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


_TYPES.primitive_rule(_path)
_TYPES.primitive_rule(_number(int, _integer))
_TYPES.primitive_rule(_number(float, _finite))
