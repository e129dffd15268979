"""`python -m tests.chaos`: every fault we can cause, on real processes; figures as one line of JSON at the end.

    python -m tests.chaos [--scale chaos|full|smoke] [--seed N] [--only SCENARIO ...]

The seed decides when and where everything breaks; it is printed first, and again in the JSON.
"""

import argparse
import secrets
import sys

from tests.chaos.run import SCENARIOS, run_all
from tests.chaos.stage import SCALES


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description="Breaks everything that can break, and counts.")
    parser.add_argument("--scale", choices=SCALES, default="chaos", help="how much of everything")
    parser.add_argument("--seed", type=int, help="replays a run; by default a new one")
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="this scenario alone; may be repeated")
    args = parser.parse_args()
    seed = secrets.randbelow(1 << 31) if args.seed is None else args.seed
    return run_all(args.scale, seed, args.only or list(SCENARIOS), sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
