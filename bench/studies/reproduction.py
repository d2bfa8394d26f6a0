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
    """Return a sentence in HTML with the command.

    Args:
        study: its command.
        options: names of the command's options, which are those of the settings.
        settings: of the results.
        presets: settings that the command has by itself, by the words which choose them.
        environment: of the results.
    """
    chosen = nearest(options, settings, presets)
    *_, name = study.split()
    words = [*study.split(), "--out", f"{name}.json", *chosen]
    for name in _differing(settings, presets[chosen]):
        if name in options:
            value = getattr(settings, name)
            # Seeds are counted from 0.
            values = [len(value)] if name == "seeds" else value if isinstance(value, tuple) else [value]
            words += ["--" + name.replace("_", "-"), *map(str, values)]
    commit = f", at commit {escape(environment.commit[:12])}" if environment.commit else ""
    return f"Measure it again{commit}: <code>{escape(shlex.join(words))}</code>"


def nearest(
    options: Collection[str], settings: "DataclassInstance", presets: Mapping[tuple[str, ...], "DataclassInstance"]
) -> tuple[str, ...]:
    """Return the words of the preset that differs from the settings in the fewest fields that no option sets."""
    return min(presets, key=lambda words: len(set(_differing(settings, presets[words])) - set(options)))


def _differing(settings: "DataclassInstance", preset: "DataclassInstance") -> list[str]:
    names = (field.name for field in fields(settings))
    return [name for name in names if getattr(settings, name) != getattr(preset, name)]
