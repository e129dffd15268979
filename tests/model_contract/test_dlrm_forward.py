"""The kernels' forward pass against the torch module, over shapes, and from several threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from model_contract.dlrm import Dlrm
from model_contract.dlrm_forward import DenseNetwork
from model_contract.errors import SchemaError
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot


def schema(slots: int, dense: int, dim: int, top: tuple[int, ...]) -> ModelSchema:
    return ModelSchema(
        "m",
        tuple(SparseSlot(f"s{i}") for i in range(slots)),
        tuple(DenseFeature(f"d{i}") for i in range(dense)),
        dim=dim,
        bottom=(9, 6) if dense else (),
        top=top,
    )


def inputs(model: ModelSchema, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    emb = generator.standard_normal((rows, len(model.sparse), model.dim)).astype(np.float32)
    return emb, generator.standard_normal((rows, len(model.dense))).astype(np.float32)


@pytest.mark.parametrize("rows", [0, 1, 17, 256, 700])
@pytest.mark.parametrize(
    ("slots", "dense", "dim", "top"), [(2, 0, 1, ()), (9, 0, 16, (32, 8)), (1, 4, 3, (5,)), (5, 13, 8, (16, 8, 4))]
)
def test_equals_the_module(slots: int, dense: int, dim: int, top: tuple[int, ...], rows: int) -> None:
    model = schema(slots, dense, dim, top)
    network, module = DenseNetwork(model), Dlrm(model)
    flat = network.layout.initial(3)
    module.load_flat(flat)
    emb, raw = inputs(model, rows, seed=4)
    with torch.no_grad():
        expected = module(torch.from_numpy(emb), torch.from_numpy(raw)).numpy()
    logits = network.logits(flat, emb, raw)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_takes_what_is_not_contiguous_or_not_writeable() -> None:
    model = schema(3, 2, 4, (8,))
    network = DenseNetwork(model)
    flat = network.layout.initial(0)
    emb, raw = inputs(model, 10, seed=1)
    expected = network.logits(flat, emb, raw)
    frozen = [array.copy() for array in (flat, emb, raw)]
    for array in frozen:
        array.setflags(write=False)
    assert np.array_equal(network.logits(*frozen), expected)
    wide = np.repeat(emb, 2, axis=2)
    assert np.array_equal(network.logits(flat, wide[:, :, ::2], raw), expected)


def test_threads_do_not_disturb_each_other() -> None:
    model = schema(4, 3, 8, (32, 16))
    network = DenseNetwork(model)
    flat = network.layout.initial(0)
    work = [inputs(model, 300, seed) for seed in range(8)]
    expected = [network.logits(flat, *pair) for pair in work]
    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(lambda k: network.logits(flat, *work[k % 8]), range(64)))
    for k, logits in enumerate(found):
        assert np.array_equal(logits, expected[k % 8])


def test_wrong_shapes_are_refused() -> None:
    model = schema(3, 2, 4, (8,))
    network = DenseNetwork(model)
    flat = network.layout.initial(0)
    emb, raw = inputs(model, 10, seed=1)
    for bad in [(flat[1:], emb, raw), (flat, emb[:, 1:], raw), (flat, emb, raw[:, 1:]), (flat, emb[1:], raw)]:
        with pytest.raises(SchemaError, match="expected"):
            network.logits(*bad)
