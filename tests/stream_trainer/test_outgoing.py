"""From a cut to the bytes of an increment."""

from collections.abc import Sequence

import numpy as np
import pytest

from embedding_table.errors import UnfitValues
from embedding_table.row_codecs import CODECS, RowCodec
from embedding_table.table import RowsOfBlock
from model_contract.increment import IncrementLimits, decode
from stream_trainer.model_state import SampleTimes
from stream_trainer.outgoing import encode_state
from tests.stream_trainer.states import LAYOUT, SCHEMA, block, state, with_manifest


def test_the_same_cut_gives_the_same_bytes_with_values_but_no_optimizer() -> None:
    rows = [block(0, [5, 9], 1.5), block(1, [2], 2.5)]
    cut = with_manifest(state(3, rows, [11]), sample_times=(SampleTimes(10, 4),), base_sequence=1)

    data = encode_state(cut, "increment", LAYOUT)
    found = decode(data, limits=IncrementLimits(), expected_fingerprint=SCHEMA.fingerprint)

    assert data == encode_state(cut, "increment", LAYOUT)
    assert (found.header.kind, found.header.lineage, found.header.sequence) == ("increment", "aaaa", 3)
    assert found.header.base_sequence == 1
    assert found.header.offsets == (("samples", 0, 30),)
    assert found.header.sample_times == ((10, 4),)
    assert [b.ids.tolist() for b in found.blocks] == [[5, 9], [2]]
    assert [b.precision for b in found.blocks] == ["fp32", "fp32"]
    assert np.array_equal(found.blocks[0].data.view("<f4"), np.full((2, 4), 1.5, np.float32))
    assert found.tombstones.tolist() == [11]
    network = [tensor for tensor in found.dense if not tensor.name.startswith("dense_")]
    assert np.array_equal(LAYOUT.join(network), np.full(LAYOUT.size, 3, np.float32))


def test_an_id_that_came_back_has_no_tombstone() -> None:
    cut = state(3, [block(0, [5, 9], 1.5)], [5, 11])

    found = decode(encode_state(cut, "increment", LAYOUT), limits=IncrementLimits(), expected_fingerprint=None)

    assert found.tombstones.tolist() == [11]


def test_tombstones_are_the_erased_ids_less_the_living() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        ids = rng.permutation(np.arange(1, 60))
        rows = [block(0, ids[:15].tolist(), 1.0), block(1, ids[15 : rng.integers(15, 30)].tolist(), 1.0)]
        erased = rng.integers(1, 70, rng.integers(0, 20)).tolist()
        found = decode(encode_state(state(3, rows, erased), "increment", LAYOUT))
        alive = {int(row_id) for part in rows for row_id in part.ids}
        assert found.tombstones.tolist() == sorted(set(erased) - alive)


class ByWorth:
    """The hotter half of a block as fp16, the rest in eight bits; what they share comes from outside."""

    def __init__(self, shared: np.ndarray) -> None:
        self._shared = shared

    def split(self, block: RowsOfBlock) -> Sequence[tuple[np.ndarray, RowCodec, np.ndarray | None]]:
        hot = block.counts >= np.median(block.counts)
        return [
            (np.flatnonzero(hot), CODECS["fp16"], None),
            (np.flatnonzero(~hot), CODECS["int8_minmax_block"], self._shared),
        ]


def test_rows_are_sent_by_their_tiers_and_decode_to_what_they_were() -> None:
    rng = np.random.default_rng(0)
    rows = [block(0, list(range(1, 101)), 0.0), block(1, list(range(101, 140)), 0.0)]
    for part in rows:
        part.values[:] = rng.standard_normal(part.values.shape)
        part.counts[:] = rng.random(part.counts.size)
    rows[0].values[int(np.argmin(rows[0].counts))] = 1e6  # fits neither the block's scale nor a binary16
    tiers = ByWorth(CODECS["int8_minmax_block"].encode(rng.standard_normal((50, 4), np.float32)).shared)
    cut = state(3, rows, [])

    data = encode_state(cut, "increment", LAYOUT, tiers)
    found = decode(data)

    assert data == encode_state(cut, "increment", LAYOUT, tiers)
    values = {int(i): v for part in rows for i, v in zip(part.ids, part.values, strict=True)}
    precisions: dict[int, str] = {}
    for sent in found.blocks:
        codec = CODECS[sent.precision]
        again = codec.encode(np.stack([values[int(i)] for i in sent.ids]), shared=sent.shared if codec.form else None)
        assert again.data.tobytes() == sent.data.tobytes()
        precisions |= dict.fromkeys(sent.ids.tolist(), sent.precision)
    assert sorted(precisions) == sorted(values)
    assert precisions[int(rows[0].ids[int(np.argmin(rows[0].counts))])] == "fp32"
    assert sorted(set(precisions.values()) - {"int8_minmax"}) == ["fp16", "fp32", "int8_minmax_block"]


@pytest.mark.parametrize(
    "tiers", [None, ByWorth(CODECS["int8_minmax_block"].encode(np.ones((2, 4), np.float32)).shared)]
)
def test_a_row_that_is_not_finite_is_refused_with_its_id(tiers: ByWorth | None) -> None:
    rows = block(0, [5, 9, 11], 1.5)
    rows.values[1, 2] = np.nan
    with pytest.raises(UnfitValues, match="id 9 "):
        encode_state(state(3, [rows]), "increment", LAYOUT, tiers)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dense_tensors_are_rounded_where_they_fit(dtype: str) -> None:
    cut = state(3, [])
    parameters = np.linspace(-2, 2, LAYOUT.size, dtype=np.float32)
    parameters[0] = 3.4e38  # of the first tensor, which neither type holds
    cut.arrays["step/parameters"] = parameters
    cut.arrays["serving/dense_mean"] = np.array([1e6 + 1], np.float32)
    cut.arrays["serving/dense_std"] = np.array([1e-9], np.float32)

    found = decode(encode_state(cut, "increment", LAYOUT, dense_dtype=dtype))  # type: ignore[arg-type]

    types = {tensor.name: tensor.dtype for tensor in found.dense}
    first, *others = (entry.name for entry in LAYOUT.entries)
    assert types == {first: "float32", "dense_mean": "float32", "dense_std": "float32"} | dict.fromkeys(others, dtype)
    network = LAYOUT.join([tensor for tensor in found.dense if not tensor.name.startswith("dense_")])
    np.testing.assert_allclose(network, parameters, rtol=2**-8)
    assert {t.name: t.values for t in found.dense}["dense_std"] == cut.arrays["serving/dense_std"]
