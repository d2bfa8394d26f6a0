"""`nfkern train <algorithm>`: one command per agent, made from its settings."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, ClassVar

import tyro

from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.agents.online.base import OnlineGCRL
from nfkern.algorithms.agents.registry import AGENTS, find_preset
from nfkern.algorithms.runs.settings import OnlineSettings, RunSettings
from nfkern.algorithms.training.data_parallel import is_first
from nfkern.algorithms.training.loop import Interrupted
from nfkern.algorithms.training.offline import train
from nfkern.errors import UserError


@dataclass(frozen=True)
class TrainCommand:
    """Base of the training commands; the command line has one option per field of `settings` and of `config`."""

    algorithm: ClassVar[str]

    settings: Any
    config: Any

    @classmethod
    def default(cls, args: Sequence[str]) -> "TrainCommand | None":
        """Return the command with the values of the preset that `args` name, or None if they name none."""
        for position, arg in enumerate(args):
            name = arg.removeprefix("--preset=") if arg.startswith("--preset=") else None
            if arg == "--preset" and position + 1 < len(args):
                name = args[position + 1]
            if name is not None:
                preset = find_preset(cls.algorithm, name)
                settings = _settings_class(AGENTS[cls.algorithm])(
                    env_name=preset.env_name or tyro.MISSING, preset=name, **preset.settings
                )
                return cls(settings, preset.config)
        return None

    def run(self) -> int:
        """Train; return the exit code."""
        try:
            if isinstance(self.settings, OnlineSettings):
                from nfkern.algorithms.training.online import train_online

                train_online(self.algorithm, self.config, self.settings)
            else:
                train(self.algorithm, self.config, self.settings)
        except ValueError as error:
            raise UserError(str(error)) from error
        except Interrupted as stop:
            how = "with new episodes" if isinstance(self.settings, OnlineSettings) else "exactly"
            print(f"{stop}. The same command with --resume continues it {how}.", file=sys.stderr)
            return 130
        except KeyboardInterrupt:
            print("interrupted. The same command with --resume continues from the newest checkpoint.", file=sys.stderr)
            return 130
        if is_first():
            runs = self.settings.runs(self.algorithm).values()
            for run in runs:
                if (outcome := run.newest_success()) is not None:
                    print(f"{run.path}: {outcome}", file=sys.stderr)
            print(*(run.path for run in runs), sep="\n")
        return 0


def _command(name: str) -> type[TrainCommand]:
    agent = AGENTS[name]
    flattened = {"settings": _settings_class(agent), "config": agent.config_class}
    fields = [(field, Annotated[kind, tyro.conf.arg(name="")]) for field, kind in flattened.items()]
    description = (agent.__doc__ or "").strip().splitlines()[0]
    namespace = {
        "algorithm": name,
        "__doc__": f"Train {name}: {agent.summary}. {description} Presets: {', '.join(agent.presets)}.",
    }
    return make_dataclass(f"Train{agent.__name__}", fields, bases=(TrainCommand,), namespace=namespace, frozen=True)


def _settings_class(agent: type[Agent]) -> type[RunSettings] | type[OnlineSettings]:
    return OnlineSettings if issubclass(agent, OnlineGCRL) else RunSettings


COMMANDS = {algorithm: _command(algorithm) for algorithm in AGENTS}
