"""The command that makes a study's results again."""

import shlex
from collections.abc import Collection, Mapping
from dataclasses import fields
from html import escape
from typing import TYPE_CHECKING

from nfkern.bench.core.environment import Environment

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def again(
    study: str,
    options: Collection[str],
    settings: "DataclassInstance",
    presets: Mapping[tuple[str, ...], "DataclassInstance"],
    environment: Environment,
) -> str:
    """A sentence in HTML with the command.

    Args:
        study: its command.
        options: names of the command's options, which are those of the settings.
        settings: of the results.
        presets: settings that the command has by itself, by the words which choose them.
        environment: of the results.
    """

    def differing(preset: "DataclassInstance") -> list[str]:
        names = (field.name for field in fields(settings))
        return [name for name in names if getattr(settings, name) != getattr(preset, name)]

    def without_option(words: tuple[str, ...]) -> int:
        return len(set(differing(presets[words])) - set(options))

    chosen = min(presets, key=without_option)
    *_, name = study.split()
    words = [*study.split(), "--out", f"{name}.json", *chosen]
    for name in differing(presets[chosen]):
        if name in options:
            value = getattr(settings, name)
            # Seeds are counted from 0.
            values = [len(value)] if name == "seeds" else value if isinstance(value, tuple) else [value]
            words += ["--" + name.replace("_", "-"), *map(str, values)]
    commit = f", at commit {escape(environment.commit[:12])}" if environment.commit else ""
    return f"Measure it again{commit}: <code>{escape(shlex.join(words))}</code>"
