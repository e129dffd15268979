"""The flat vector: cut and joined without loss, and started so that dots reach the logit."""

from dataclasses import replace

import numpy as np
import pytest

from model_contract.dense_layout import DenseLayout
from model_contract.dlrm_forward import DenseNetwork
from model_contract.errors import SchemaError
from model_contract.increment import DenseTensor
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot


def schema(slots: int = 3, dense: int = 0, dim: int = 5, top: tuple[int, ...] = (7, 4)) -> ModelSchema:
    return ModelSchema(
        name="m",
        sparse=tuple(SparseSlot(f"s{i}") for i in range(slots)),
        dense=tuple(DenseFeature(f"d{i}") for i in range(dense)),
        dim=dim,
        bottom=(6,) if dense else (),
        top=top,
    )


def test_entries_follow_from_the_definition() -> None:
    layout = DenseLayout(schema(slots=3, dense=2, dim=5))
    assert [(e.name, e.shape) for e in layout.entries] == [
        ("bottom.0.weight", (6, 2)),
        ("bottom.0.bias", (6,)),
        ("bottom.1.weight", (5, 6)),
        ("bottom.1.bias", (5,)),
        ("top.0.weight", (7, 5 + 6)),  # the bottom's output, and 4 vectors make 6 pairs
        ("top.0.bias", (7,)),
        ("top.1.weight", (4, 7)),
        ("top.1.bias", (4,)),
        ("top.2.weight", (1, 4)),
        ("top.2.bias", (1,)),
    ]
    ends = [e.offset + e.size for e in layout.entries]
    assert [e.offset for e in layout.entries] == [0, *ends[:-1]]
    assert ends[-1] == layout.size


def test_split_and_join_are_inverse_in_any_order() -> None:
    layout = DenseLayout(schema(dense=2))
    flat = np.random.default_rng(1).standard_normal(layout.size, np.float32)
    tensors = layout.split(flat)
    assert np.array_equal(layout.join(tensors[::-1]), flat)
    assert tensors[0].values.base is not None  # views, not copies


def test_wrong_vectors_and_tensors_are_refused() -> None:
    layout = DenseLayout(schema())
    tensors = layout.split(layout.initial(0))
    with pytest.raises(SchemaError, match="expected float32"):
        layout.split(np.zeros(layout.size + 1, np.float32))
    with pytest.raises(SchemaError, match="expected float32"):
        layout.split(np.zeros(layout.size, np.float64))  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match="each once"):
        layout.join(tensors[1:])
    with pytest.raises(SchemaError, match="each once"):
        layout.join((*tensors, tensors[0]))
    with pytest.raises(SchemaError, match=r"top\.0\.weight has shape"):
        layout.join((DenseTensor(tensors[0].name, tensors[0].values.T), *tensors[1:]))


def test_nothing_to_interact_is_refused() -> None:
    with pytest.raises(SchemaError, match="at least two"):
        DenseLayout(schema(slots=1))


@pytest.mark.parametrize("dense", [0, 2])
@pytest.mark.parametrize("top", [(), (7,), (16, 8, 4)])
def test_a_fresh_network_passes_the_dots_on(top: tuple[int, ...], dense: int) -> None:
    """Averaged over seeds, the noise cancels and the start is a factorization machine."""
    model = schema(slots=3, dense=dense, top=top)
    network = DenseNetwork(model)
    emb = np.random.default_rng(2).uniform(-0.5, 0.5, (1, 3, 5)).astype(np.float32)
    moved = emb.copy()
    moved[0, 1] += 0.1
    inputs = np.zeros((1, dense), np.float32)
    excess = []
    for seed in range(300):
        flat = network.layout.initial(seed)
        others = emb[0, 0] + emb[0, 2]
        if dense:
            _, hidden, weight, bias = (tensor.values for tensor in network.layout.split(flat)[:4])
            others = others + np.maximum(weight @ np.maximum(hidden, 0) + bias, 0)
        change = network.logits(flat, moved, inputs) - network.logits(flat, emb, inputs)
        excess.append(float(change[0]) - 1.5 * float((0.1 * others).sum()))
    assert abs(np.mean(excess)) < 4 * np.std(excess) / np.sqrt(len(excess)) + 1e-6


def test_a_fresh_network_guesses_nothing() -> None:
    """Averaged over seeds, the logit of rows that are zero is zero."""
    model = schema(slots=3, top=(16, 8))
    network = DenseNetwork(model)
    nothing, no_dense = np.zeros((1, 3, 5), np.float32), np.zeros((1, 0), np.float32)
    logits = [float(network.logits(network.layout.initial(seed), nothing, no_dense)[0]) for seed in range(300)]
    assert abs(np.mean(logits)) < 4 * np.std(logits) / np.sqrt(len(logits))


def test_the_first_unit_reads_the_dots_alone() -> None:
    layout = DenseLayout(schema(dense=2, dim=5))
    first = {tensor.name: tensor.values for tensor in layout.split(layout.initial(0))}["top.0.weight"][0]
    assert np.array_equal(first, np.repeat(np.array([0, 1], np.float32), [5, 6]))


def test_many_pairs_share_the_gain_of_few() -> None:
    few, many = DenseLayout(schema(slots=9)), DenseLayout(schema(slots=27))
    assert few.initial(0)[few.top[-1].weight_offset] == pytest.approx(1.5)
    assert many.initial(0)[many.top[-1].weight_offset] == pytest.approx(1.5 * 36 / 351)


def test_a_seed_names_its_start() -> None:
    layout = DenseLayout(schema())
    assert np.array_equal(layout.initial(3), layout.initial(3))
    assert not np.array_equal(layout.initial(3), layout.initial(4))


def test_an_alignment_is_appended_and_its_statistics_are_last() -> None:
    plain = schema(slots=3, dense=2, dim=5)
    padded, layout = DenseLayout(plain), DenseLayout(replace(plain, align="linear"))
    before = len(padded.entries)
    assert layout.entries[:before] == padded.entries
    assert [(e.name, e.shape) for e in layout.entries[before:]] == [
        ("align.weight", (3, 5, 5)),
        ("align.scale", (3, 5)),
        ("align.shift", (3, 5)),
        ("align.mean", (3, 5)),
        ("align.variance", (3, 5)),
        ("align.batches", (1,)),
    ]
    assert layout.size - layout.learned == 15 + 15 + 1
    assert padded.learned == padded.size
    flat = layout.initial(3)
    assert np.array_equal(flat[: padded.size], padded.initial(3))
    tensors = {tensor.name: tensor.values for tensor in layout.split(flat)}
    assert np.array_equal(tensors["align.weight"], np.broadcast_to(np.eye(5), (3, 5, 5)))
    assert np.all(tensors["align.scale"] == 1) and np.all(tensors["align.shift"] == 0)
