"""`dimflow search`: asks the trainer that works in a state folder for a search and shows the plan it made.

Knows the folder only: the request goes in as a file, the plan comes out of the history. Invariant: a request that
nobody took when the command ends is taken back, so no trainer acts on it later.
"""

import argparse
import sys
import time
from pathlib import Path

import msgspec

from dimension_search.plan import DimensionPlan
from dimension_search.plan_history import PlanHistory
from dimension_search.search_request import COMMAND_TRIGGER, SearchMode, ask, withdraw
from dimflow.errors import SearchUnanswered
from dimflow.plan_report import print_plans

__all__ = ["add_search_arguments", "run_search"]

_POLL_S = 0.1
_LOOKED_AT = 20  # last plans: more than any trainer makes between two looks
_REFUSED = 1


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares where the trainer works and what it shall do with the plan."""
    parser.add_argument("--state-dir", type=Path, required=True, help="state folder of the running trainer")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--plan-only", dest="mode", action="store_const", const="plan-only", help="make a plan and judge it, no more"
    )
    what.add_argument(
        "--apply", dest="mode", action="store_const", const="apply", help="apply it if its verdict allows"
    )
    parser.add_argument("--timeout-s", type=float, default=60.0, help="seconds to wait for the plan (60)")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run_search(args: argparse.Namespace) -> int:
    """Asks, waits and prints the plan; returns 0 where it was planned or applied as asked, 1 where it was refused.

    Raises:
        SearchError: there is no such folder.
        SearchUnanswered: no plan came in time.
    """
    plan = _search(args.state_dir, args.mode, args.timeout_s)
    if args.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(plan), indent=2).decode() + "\n")
    else:
        print_plans([plan])
    verdict = plan.verdict
    if verdict is not None and verdict.decision == "refused":
        sys.stderr.write(f"dimflow search: the plan is refused: {verdict.reason}\n")
        return _REFUSED
    if args.mode == "apply" and (verdict is None or verdict.decision != "applied"):
        sys.stderr.write(f"dimflow search: the plan is not applied: {verdict.reason if verdict else 'not judged'}\n")
        return _REFUSED
    return 0


def _search(folder: Path, mode: SearchMode, timeout_s: float) -> DimensionPlan:
    asked_ms = time.time_ns() // 1_000_000
    deadline = time.monotonic() + timeout_s
    history = PlanHistory(folder)
    earlier = history.read(_LOOKED_AT)
    ask(folder, mode, asked_ms)
    try:
        while True:
            plans = history.read(_LOOKED_AT)
            plan = next((plan for plan in plans if _answers(plan, asked_ms) and plan not in earlier), None)
            if plan is not None:
                return plan
            if time.monotonic() >= deadline:
                break
            time.sleep(_POLL_S)
    finally:
        untaken = withdraw(folder)
    why = "no trainer took the request; is one running there?" if untaken else "the trainer took the request"
    message = f"no plan within {timeout_s:g} s: {why}"
    raise SearchUnanswered(message)


def _answers(plan: DimensionPlan, asked_ms: int) -> bool:
    """Whether a request asked for it; a trainer's clock may count in whole seconds."""
    return plan.trigger == COMMAND_TRIGGER and plan.created_ms >= asked_ms // 1000 * 1000
