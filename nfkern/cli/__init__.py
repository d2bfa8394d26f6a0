"""The command line."""

from nfkern.cli.commands import main

__all__ = ["main"]
