"""`python -m nfkern`."""

import sys

from nfkern.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
