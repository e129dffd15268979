"""Places that do not overlap, and memory that is as large as they say."""

import numpy as np
import pytest

from model_contract.dense_layout import DenseLayout
from model_contract.dlrm_kernels import network_shape
from stream_trainer.amx_products import packed_size
from stream_trainer.amx_space import GROUP_ROWS, new_amx_space, new_packed_weights, packed_places
from tests.stream_trainer.train_cases import schema


@pytest.mark.parametrize("rows", [1, 40, 1000])
@pytest.mark.parametrize("dense", [0, 3])
@pytest.mark.parametrize("terms", [1, 3])
def test_every_hidden_layer_has_its_place(rows: int, dense: int, terms: int) -> None:
    layout = DenseLayout(schema(dense=dense, top=(70, 5)))
    shape = network_shape(layout)
    places = packed_places(shape, rows, terms)
    hidden = [*layout.bottom, *layout.top][:-1]
    for number, layer in enumerate(hidden):
        sizes = [starts[number + 1] - starts[number] for starts in places[:4]]
        assert sizes[0] == packed_size(layer.outputs, layer.inputs, terms)
        assert sizes[1] == packed_size(layer.inputs, layer.outputs, terms)
        assert sizes[2:] == [packed_size(layer.inputs, rows, terms), packed_size(layer.outputs, rows, terms)]
    space = new_amx_space(shape, places, layout.size, rows)
    assert (space.inputs.size, space.slopes.size) == (places.inputs[-1], places.slopes[-1])
    assert space.work.size == min(rows, GROUP_ROWS) * shape.starts[-1]
    assert [packed.size for packed in new_packed_weights(places)] == [places.forward[-1], places.backward[-1]]
    assert space.grad.shape == (layout.size,)


def test_a_network_of_one_layer_packs_nothing() -> None:
    shape = network_shape(DenseLayout(schema(top=())))
    places = packed_places(shape, 64, 3)
    assert [int(starts[-1]) for starts in places[:4]] == [0, 0, 0, 0]
    assert all(packed.dtype == np.uint16 and packed.size == 0 for packed in new_packed_weights(places))


def test_groups_are_whole_blocks() -> None:
    assert GROUP_ROWS % 32 == 0
