"""An increment of 100,000 rows in mixed precision, from the trainer's cut to the replica that answers from it.

    python -m benchmarks.increment [--quick]

Ten slots of rows at D 16 and 32. `mixed` gives 5 % of the rows fp16, 25 % int8 and 70 % int4, the integers by greedily
searched ranges and coded scales whose codebooks were learned with the base, one pair a slot and precision; `fp32` is
the same increment as floats. Measured one after the other, the quickest of several increments: encoding the cut,
publishing it to a real Redis, fetching it, decoding and applying it to a replica that holds the base; and how many
samples a second that replica scores afterwards, batches of 1000, one thread. Bytes served are those of row slabs and
their notes. Dense weights are float32 in both.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import redis
from numpy.typing import NDArray

from benchmarks.report import Json, report
from dimflow.local_servers import LocalRedis
from embedding_table.row_codecs import CODECS, RowCodec
from embedding_table.table import RowsOfBlock, TableChanges
from model_contract.dense_layout import DenseLayout
from model_contract.increment import IncrementKind, decode
from model_contract.redis_keys import RedisKeys, entry_id
from model_contract.samples import SampleBatch
from model_contract.schema import ModelSchema, SparseSlot
from serving.replica import Replica
from stream_trainer.model_state import Manifest, ModelState
from stream_trainer.outgoing import RowTiers, encode_state
from stream_trainer.publisher import Publisher

T = TypeVar("T")

_SLOTS = 10
_LINEAGE = "benchmark"
_CODED = ("int8_greedy_coded", "int4_greedy_coded")
_INT8_FROM, _FP16_FROM = 0.7, 0.95  # shares of a slot's rows, from the rarest on
_PARTS = ("encode", "publish", "fetch", "decode", "apply")


@dataclass
class MixedTiers:
    """Tiers by traffic; codebooks by slot, learned from the first block of each, the base's."""

    shared: dict[tuple[int, str], NDArray[np.float32]] = field(default_factory=dict)

    def split(self, block: RowsOfBlock) -> Sequence[tuple[NDArray[np.int64], RowCodec, NDArray[np.float32] | None]]:
        """As `RowTiers`: a row's count is its rank among the rows of its slot, 0 to 1."""
        by_name = {
            "int4_greedy_coded": np.flatnonzero(block.counts < _INT8_FROM),
            "int8_greedy_coded": np.flatnonzero((block.counts >= _INT8_FROM) & (block.counts < _FP16_FROM)),
            "fp16": np.flatnonzero(block.counts >= _FP16_FROM),
        }
        for name in _CODED:
            if (block.slot, name) not in self.shared:
                self.shared[block.slot, name] = CODECS[name].encode(block.values[by_name[name]]).shared
        return [(rows, CODECS[name], self.shared.get((block.slot, name))) for name, rows in by_name.items()]


class Model:
    """Rows and cuts of a model that was never trained."""

    def __init__(self, dim: int, rows: int) -> None:
        slots = tuple(SparseSlot(f"s{number}") for number in range(_SLOTS))
        self.schema = ModelSchema(f"increment{dim}", slots, (), dim=dim, bottom=(), top=(64, 32))
        self.layout = DenseLayout(self.schema)
        self._rng = np.random.default_rng(dim)
        self._ids = [
            np.append(
                self._rng.permutation(rows // _SLOTS).astype(np.uint64) * np.uint64(_SLOTS) + np.uint64(slot + 1),
                missing,
            )
            for slot, missing in enumerate(self.schema.missing_ids)
        ]
        self._ranks = [self._rng.random(ids.size).astype(np.float32) for ids in self._ids]
        for ranks in self._ranks:
            ranks[-1] = 1  # the missing row's

    def cut(self, sequence: int, rows: int | None) -> ModelState:
        """New values for so many rows, None for all of them."""
        blocks = []
        for slot, ids in enumerate(self._ids):
            count = ids.size if rows is None else rows // _SLOTS
            chosen = np.sort(self._rng.permutation(ids.size)[:count])
            values = self._rng.standard_normal((count, self.schema.dim), np.float32) * np.float32(0.1)
            columns = np.arange(self.schema.dim, dtype=np.uint16)
            accumulators, seen = np.ones(count, np.float32), np.ones(count, np.uint32)
            ranks = self._ranks[slot][chosen]
            blocks.append(RowsOfBlock(slot, 0, columns, ids[chosen], values, accumulators, ranks, seen))
        manifest = Manifest(
            lineage=_LINEAGE, epoch=1, sequence=sequence, fingerprint=self.schema.fingerprint, created_ms=sequence
        )
        nothing = np.empty(0, np.float32)
        arrays = {
            "step/parameters": self.layout.initial(1),
            "serving/dense_mean": nothing,
            "serving/dense_std": nothing,
        }
        return ModelState(manifest, TableChanges(tuple(blocks), np.empty(0, np.uint64)), arrays)

    def batch(self, samples: int) -> SampleBatch:
        """Samples of random known ids."""
        picked = [ids[self._rng.integers(0, ids.size, samples)] for ids in self._ids]
        return SampleBatch(
            labels=np.zeros(samples, np.float32),
            weights=np.ones(samples, np.float32),
            ts_ms=np.zeros(samples, np.int64),
            dense=np.zeros((samples, 0), np.float32),
            ids=np.stack(picked, axis=1).reshape(-1),
            offsets=np.arange(samples * _SLOTS + 1, dtype=np.int64),
        )


def main() -> None:
    """Runs both widths and both precisions, and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller base and fewer increments, ends within 50 s")
    quick = parser.parse_args().quick
    rows, turns = (300_000, 3) if quick else (2_000_000, 12)
    results: dict[str, Json] = {"increment_rows": 100_000, "base_rows": rows}
    with LocalRedis() as server:
        for dim in (16, 32):
            measured = {
                name: _measured(Model(dim, rows), tiers, server.url, turns)
                for name, tiers in (("fp32", None), ("mixed", MixedTiers()))
            }
            for name, found in measured.items():
                found["bytes_over_fp32"] = round(found["bytes"] / measured["fp32"]["bytes"], 4)
                results[f"{name}@{dim}"] = dict(found)
    report("increment", results)


def _measured(model: Model, tiers: RowTiers | None, url: str, turns: int) -> dict[str, float]:
    replica = Replica(model.schema, 2 << 30)
    publisher = Publisher(url, model.schema.name, kept_bases=1, stream_increments=10)
    seconds = dict.fromkeys(_PARTS, float("inf"))
    sizes: list[int] = []

    def timed(part: str, work: Callable[[], T]) -> T:
        begin = time.perf_counter()
        done = work()
        seconds[part] = min(seconds[part], time.perf_counter() - begin)
        return done

    def encoded(state: ModelState, kind: IncrementKind) -> bytes:
        return encode_state(state, kind, model.layout, tiers)

    with redis.Redis.from_url(url) as client:
        keys = RedisKeys(model.schema.name)
        client.delete(*[keys.head, keys.increments(_LINEAGE)])
        base = encoded(model.cut(0, None), "base")
        publisher.replace_base(_LINEAGE, 1, 0, model.schema.fingerprint, base, take_over=True)
        replica.load_base(decode(base))
        for sequence in range(1, turns + 1):
            state = model.cut(sequence, 100_000)
            data = timed("encode", lambda state=state: encoded(state, "increment"))  # type: ignore[misc]
            timed("publish", lambda data=data, at=sequence: publisher.append(_LINEAGE, 1, at, data))  # type: ignore[misc]
            entry = entry_id(sequence)
            found: Any = timed("fetch", lambda entry=entry: client.xrange(keys.increments(_LINEAGE), entry, entry))  # type: ignore[misc]
            increment = timed("decode", lambda data=found[0][1][b"data"]: decode(data))  # type: ignore[misc]
            timed("apply", lambda increment=increment: replica.apply(increment))  # type: ignore[misc]
            sizes.append(len(data))
    publisher.close()
    score_s = float("inf")
    for _ in range(10 * turns):
        batch = model.batch(1000)
        begin = time.perf_counter()
        replica.score(batch)
        score_s = min(score_s, time.perf_counter() - begin)
    footprint = replica.footprint
    return {
        "bytes": max(sizes),
        **{f"{part}_ms": round(seconds[part] * 1e3, 2) for part in _PARTS},
        "samples_scored_per_s": round(1000 / score_s),
        "served_row_bytes": footprint.row_bytes,
        "served_index_bytes": footprint.index_bytes,
    }


if __name__ == "__main__":
    main()
