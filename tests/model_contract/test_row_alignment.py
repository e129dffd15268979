"""The alignment's kernel against the torch module, its start against no alignment at all."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_contract.dense_layout import DenseLayout
from model_contract.dlrm import Alignment, Dlrm
from model_contract.dlrm_forward import DenseNetwork
from model_contract.dlrm_kernels import network_shape, stage
from model_contract.row_alignment import align_rows, alignment_places, alignment_widths, slot_rows, slot_weight
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot


def schema(slots: int = 3, dense: int = 0, dim: int = 5, top: tuple[int, ...] = (7, 4)) -> ModelSchema:
    return ModelSchema(
        "m",
        tuple(SparseSlot(f"s{i}") for i in range(slots)),
        tuple(DenseFeature(f"d{i}") for i in range(dense)),
        dim=dim,
        bottom=(6,) if dense else (),
        top=top,
        align="linear",
    )


def stirred(layout: DenseLayout, seed: int) -> np.ndarray:
    """Parameters whose alignment is no identity."""
    flat = layout.initial(seed)
    assert layout.align
    tail = flat[layout.align.weight :]
    tail += 0.3 * np.random.default_rng(seed).standard_normal(tail.size, np.float32)
    return flat


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    slots=st.integers(2, 5),
    dense=st.integers(0, 2),
    dim=st.integers(1, 20),
    top=st.sampled_from([(), (7,), (16, 8)]),
    rows=st.integers(1, 300),
)
def test_switching_on_changes_no_logit(
    seed: int, slots: int, dense: int, dim: int, top: tuple[int, ...], rows: int
) -> None:
    """Whatever the network and whatever columns rows have got: bit for bit."""
    linear = schema(slots, dense, dim, top)
    padded = dataclasses.replace(linear, align="zero_pad")
    networks = DenseNetwork(linear), DenseNetwork(padded)
    before = networks[1].layout.initial(seed)
    after = np.concatenate([before, networks[0].layout.initial(0)[before.size :]])
    generator = np.random.default_rng(seed)
    emb = generator.standard_normal((rows, slots, dim), np.float32)
    emb[:, generator.random((slots, dim)) < 0.4] = 0  # columns that the slot's rows have not got
    raw = generator.standard_normal((rows, dense), np.float32)
    assert np.array_equal(networks[0].logits(after, emb, raw), networks[1].logits(before, emb, raw))


@pytest.mark.parametrize("rows", [1, 17, 256, 700])
@pytest.mark.parametrize(("slots", "dense", "dim"), [(2, 0, 1), (9, 0, 16), (3, 4, 7)])
def test_equals_the_module(slots: int, dense: int, dim: int, rows: int) -> None:
    model = schema(slots, dense, dim)
    network, module = DenseNetwork(model), Dlrm(model)
    flat = stirred(network.layout, 3)
    module.load_flat(flat)
    generator = np.random.default_rng(4)
    emb = 0.5 * generator.standard_normal((rows, slots, dim), np.float32)
    raw = generator.standard_normal((rows, dense), np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(emb), torch.from_numpy(raw)).numpy()
    np.testing.assert_allclose(network.logits(flat, emb, raw), expected, rtol=2e-5, atol=2e-5)


def test_the_module_starts_as_the_layout_does() -> None:
    layout = DenseLayout(schema())
    assert layout.align
    module = Alignment(layout.align)
    start = {tensor.name: tensor.values for tensor in layout.split(layout.initial(5))}
    for name, parameter in module.named_parameters():
        assert np.array_equal(parameter.detach().numpy(), start[f"align.{name}"])


def test_only_weights_of_columns_that_rows_have_got_count() -> None:
    model = schema()
    network = DenseNetwork(model)
    flat = stirred(network.layout, 1)
    emb = np.random.default_rng(0).standard_normal((9, 3, 5), np.float32)
    emb[:, 1, 2:] = 0
    nothing = np.empty((9, 0), np.float32)
    expected = network.logits(flat, emb, nothing)
    other = flat.copy()
    weight = slot_weight(alignment_places(network.layout.align), other, 1)
    weight[2:] = 7
    assert np.array_equal(network.logits(other, emb, nothing), expected)
    weight[1, 0] += 1
    assert not np.array_equal(network.logits(other, emb, nothing), expected)


def test_it_is_applied_slot_by_slot() -> None:
    layout = DenseLayout(schema())
    places = alignment_places(layout.align)
    flat = stirred(layout, 2)
    emb = np.random.default_rng(0).standard_normal((4, 3, 5), np.float32)
    projected, aligned, piece = (np.empty(shape, np.float32) for shape in ((4, 15), (4, 3, 5), (4, 5)))
    align_rows(places, flat, emb, projected, aligned, piece)
    tensors = {tensor.name: tensor.values for tensor in layout.split(flat)}
    for slot in range(3):
        z = emb[:, slot] @ tensors["align.weight"][slot]
        np.testing.assert_allclose(slot_rows(projected, slot, 5), z, rtol=1e-5, atol=1e-6)
        y = z * tensors["align.scale"][slot] + tensors["align.shift"][slot]
        np.testing.assert_allclose(aligned[:, slot], y, rtol=1e-5, atol=1e-6)


def test_its_stages_come_last_and_there_are_none_without_it() -> None:
    model = schema()
    shape = network_shape(DenseLayout(model))
    assert np.diff(shape.starts).tolist() == [3, 7, 4, 15, 15, 5]  # pairs, top layers, then z, y and one slot's x
    work = np.empty(2 * int(shape.starts[-1]), np.float32)
    assert stage(work, shape.starts, shape.layers.shape[0] + 2, 2).shape == (2, 5)
    plain = network_shape(DenseLayout(dataclasses.replace(model, align="zero_pad")))
    assert np.diff(plain.starts).tolist() == [3, 7, 4]
    assert plain.align.size == 0
    assert alignment_widths(None) == []
