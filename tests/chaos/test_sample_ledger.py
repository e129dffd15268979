"""The judge of states finds everything that may be wrong with one, and nothing in a sound one."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from embedding_table.table import RowsOfBlock, TableChanges
from model_contract.feature_id import feature_id
from stream_trainer.model_state import Manifest, ModelState, TopicOffset
from tests.chaos.sample_ledger import ITEMS, Ledger, Verdict, is_poison, record, user_of

SEED = 5
COUNTS = [300, 250, 0]


def block(slot: int, counts: dict[int, float]) -> RowsOfBlock:
    n = len(counts)
    return RowsOfBlock(
        slot=slot,
        band=0,
        columns=np.arange(2, dtype=np.uint16),
        ids=np.array(list(counts), np.uint64),
        values=np.ones((n, 2), np.float32),
        accumulators=np.ones(n, np.float32),
        counts=np.array(list(counts.values()), np.float32),
        last_seen_s=np.zeros(n, np.uint32),
    )


def sound_state(counts: list[int] = COUNTS) -> ModelState:
    """What a trainer holds that learned so many records of each partition, written down without the ledger."""
    users: dict[int, float] = {}
    items: dict[int, float] = {}
    poison = 0
    for partition, count in enumerate(counts):
        for offset in range(count):
            if is_poison(SEED, partition, offset):
                poison += 1
                continue
            users[feature_id("user", user_of(partition, offset))] = 1.0
            item = feature_id("item", f"i{offset % ITEMS}")
            items[item] = items.get(item, 0.0) + 1.0
    manifest = Manifest(
        lineage="l",
        epoch=1,
        sequence=4,
        fingerprint="f",
        created_ms=1,
        samples_trained=len(users),
        dead_letters=poison,
        offsets=tuple(TopicOffset("t", p, n) for p, n in enumerate(counts)),
    )
    rows = TableChanges(blocks=(block(0, users), block(1, items)), erased_ids=np.empty(0, np.uint64))
    return ModelState(manifest=manifest, rows=rows, arrays={"counts": np.array([len(users), 0, 0, 0])})


def ledger(handed: list[int] | None = None) -> Ledger:
    made = Ledger(SEED, "t", 3)
    made.handed = handed or [400, 250, 7]
    return made


def changed(state: ModelState, **manifest: object) -> ModelState:
    return replace(state, manifest=msgspec.structs.replace(state.manifest, **manifest))


def with_users(state: ModelState, change) -> ModelState:  # type: ignore[no-untyped-def]
    users, items = state.rows.blocks
    return replace(state, rows=replace(state.rows, blocks=(change(users), items)))


def first_rows_left_out(users: RowsOfBlock, count: int = 3) -> RowsOfBlock:
    rest = {int(i): float(c) for i, c in zip(users.ids[count:], users.counts[count:], strict=True)}
    return block(0, rest)


def test_a_sound_state_is_sound() -> None:
    assert ledger().judge(sound_state()) == Verdict()
    assert ledger().judge(sound_state([0, 0, 0])) == Verdict()
    assert ledger([300, 250, 0]).judge(sound_state()).sound


def test_there_is_poison_among_the_records_and_it_is_not_json() -> None:
    poison = [offset for offset in range(300) if is_poison(SEED, 0, offset)]
    assert 0 < len(poison) < 30
    for offset in range(300):
        if offset in poison:
            with pytest.raises(msgspec.DecodeError):
                msgspec.json.decode(record(SEED, 0, offset))
        else:
            assert msgspec.json.decode(record(SEED, 0, offset))["sparse"]["user"] == user_of(0, offset)


def test_lost_samples_are_found() -> None:
    verdict = ledger().judge(with_users(sound_state(), first_rows_left_out))
    assert (verdict.lost, verdict.twice) == (3, 0)


def test_samples_trained_twice_are_found() -> None:
    def twice(users: RowsOfBlock) -> RowsOfBlock:
        counts = users.counts.copy()
        counts[7:9] = 2
        return replace(users, counts=counts)

    verdict = ledger().judge(with_users(sound_state(), twice))
    assert (verdict.lost, verdict.twice) == (0, 2)


def test_offsets_behind_the_rows_are_a_mixed_state() -> None:
    state = sound_state()
    behind = (TopicOffset("t", 0, 290), *state.manifest.offsets[1:])
    verdict = ledger().judge(changed(state, offsets=behind))
    assert verdict.mixed == 1
    assert any("rows of records at offset 290" in reason for reason in verdict.reasons)


def test_offsets_ahead_of_the_rows_are_lost_samples() -> None:
    state = sound_state()
    ahead = (TopicOffset("t", 0, 310), *state.manifest.offsets[1:])
    assert ledger().judge(changed(state, offsets=ahead)).lost >= 9
    beyond = (TopicOffset("t", 0, 1000), *state.manifest.offsets[1:])
    assert any("of 400 records" in reason for reason in ledger().judge(changed(state, offsets=beyond)).reasons)


@pytest.mark.parametrize("field", ["samples_trained", "dead_letters"])
def test_counters_of_another_cut_are_a_mixed_state(field: str) -> None:
    state = sound_state()
    verdict = ledger().judge(changed(state, **{field: getattr(state.manifest, field) + 1}))
    assert (verdict.lost, verdict.twice, verdict.mixed) == (0, 0, 1)


def test_arrays_or_items_of_another_cut_are_a_mixed_state() -> None:
    state = sound_state()
    other_arrays = replace(state, arrays={"counts": np.array([1, 0, 0, 0])})
    assert ledger().judge(other_arrays).mixed == 1
    users, _ = state.rows.blocks
    _, older = sound_state([299, 250, 0]).rows.blocks
    verdict = ledger().judge(replace(state, rows=replace(state.rows, blocks=(users, older))))
    assert (verdict.lost, verdict.mixed) == (0, 1)


def test_verdicts_add_up() -> None:
    total = Verdict(1, 2, 1, ("a",)) + Verdict(3, 0, 1, ("b",))
    assert total == Verdict(4, 2, 2, ("a", "b"))
    assert not total.sound
