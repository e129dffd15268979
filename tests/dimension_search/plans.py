"""Made-up plans, as a history has them."""

from collections.abc import Sequence

from dimension_search.plan import BlockPlan, DimensionPlan, Verdict


def made_plan(
    number: int,
    *,
    widths: Sequence[Sequence[int]] = ((4, 8), (16, 32)),
    before: Sequence[Sequence[int]] = ((32, 32), (32, 32)),
    rows: Sequence[Sequence[int]] = ((1000, 100), (50, 10)),
    slots: Sequence[str] = ("user", "article"),
    trigger: str = "samples",
    created_ms: int | None = None,
    verdict: Verdict | None = None,
) -> DimensionPlan:
    """The `number`-th plan of a stream, with widths (F, K)."""
    blocks = [
        BlockPlan(
            slot=slot,
            band=band,
            rows=rows[at][band],
            columns_before=list(range(before[at][band])),
            columns=list(range(width)),
            bytes_before=rows[at][band] * (4 * before[at][band] + 4),
            bytes_after=rows[at][band] * (4 * width + 4),
            share_lost=0.125 if width < before[at][band] else 0.0,
            reason=f"made up for {slot} {band}",
        )
        for at, slot in enumerate(slots[: len(widths)])
        for band, width in enumerate(widths[at])
    ]
    return DimensionPlan(
        planner="principal",
        trigger=trigger,
        created_ms=1_700_000_000_000 + number * 60_000 if created_ms is None else created_ms,
        samples_trained=number * 250_000,
        budget_bytes=100_000,
        bytes_before=sum(block.bytes_before for block in blocks),
        bytes_after=sum(block.bytes_after for block in blocks),
        share_lost=0.0625,
        dropped_slots=[slots[at] for at, ws in enumerate(widths) if not any(ws)],
        blocks=blocks,
        verdict=verdict,
    )
