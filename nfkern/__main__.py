"""`python -m nfkern`."""

import sys

from nfkern.cli import main

if __name__ == "__main__":
    sys.exit(main())
