"""Run `nfkern` and press Ctrl-C where it opens a file for the n-th time: `python -m support.interrupted N PATTERN ...`.

A test that waits for the file from outside comes too late where the rest of the command takes milliseconds.
"""

import itertools
import os
import signal
import sys
from fnmatch import fnmatch

from nfkern.cli.commands import main


def interrupt_at(number: int, pattern: str) -> None:
    """Send SIGINT to this process when it opens files whose path matches, for writing, for the `number`-th time."""
    opened = itertools.count(1)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open" and arguments[1] != "r" and fnmatch(str(arguments[0]), pattern) and next(opened) == number:
            os.kill(os.getpid(), signal.SIGINT)

    sys.addaudithook(hook)


if __name__ == "__main__":
    interrupt_at(int(sys.argv[1]), sys.argv[2])
    sys.exit(main(sys.argv[3:]))
