"""From a cut to the bytes of an increment."""

import numpy as np

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
    assert np.array_equal(found.blocks[0].values, np.full((2, 4), 1.5, np.float32))
    assert found.tombstones.tolist() == [11]
    network = [tensor for tensor in found.dense if not tensor.name.startswith("dense_")]
    assert np.array_equal(LAYOUT.join(network), np.full(LAYOUT.size, 3, np.float32))


def test_an_id_that_came_back_has_no_tombstone() -> None:
    cut = state(3, [block(0, [5, 9], 1.5)], [5, 11])

    found = decode(encode_state(cut, "increment", LAYOUT), limits=IncrementLimits(), expected_fingerprint=None)

    assert found.tombstones.tolist() == [11]
