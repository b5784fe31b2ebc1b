"""`python -m noraflask` is the command `nora`."""

import sys

from noraflask.cli import main

if __name__ == "__main__":
    sys.exit(main())
