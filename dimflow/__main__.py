"""`python -m dimflow`: the same as the command `dimflow`."""

import sys

from dimflow.command import main

if __name__ == "__main__":
    sys.exit(main())
