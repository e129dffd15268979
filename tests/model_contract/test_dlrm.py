"""The torch module against dot products and layers written out by hand."""

import numpy as np
import pytest
import torch

from model_contract.dlrm import Dlrm
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot


def by_hand(schema: ModelSchema, module: Dlrm, emb: np.ndarray, dense: np.ndarray) -> float:
    """One sample, element by element, in float64: emb (F, D), dense (n,)."""
    parameters = {name: p.detach().double().numpy() for name, p in module.named_parameters()}

    def layers(name: str, count: int, x: list[float], last_is_linear: bool) -> list[float]:
        for k in range(count):
            weight, bias = parameters[f"{name}.{k}.weight"], parameters[f"{name}.{k}.bias"]
            y = []
            for out in range(len(bias)):
                total = bias[out]
                for i, value in enumerate(x):
                    total += weight[out, i] * value
                y.append(total if last_is_linear and k == count - 1 else max(total, 0.0))
            x = y
        return x

    vectors = [list(map(float, row)) for row in emb]
    joined: list[float] = []
    if schema.dense:
        bottom = layers("bottom", len(schema.bottom) + 1, list(map(float, dense)), last_is_linear=False)
        vectors.insert(0, bottom)
        joined += bottom
    for i in range(len(vectors)):
        for j in range(i):
            joined.append(sum(a * b for a, b in zip(vectors[i], vectors[j], strict=True)))
    return layers("top", len(schema.top) + 1, joined, last_is_linear=True)[0]


@pytest.mark.parametrize("dense", [0, 3])
@pytest.mark.parametrize("top", [(), (4,), (6, 3)])
def test_equals_the_published_definition(dense: int, top: tuple[int, ...]) -> None:
    schema = ModelSchema(
        "m",
        tuple(SparseSlot(f"s{i}") for i in range(4)),
        tuple(DenseFeature(f"d{i}") for i in range(dense)),
        dim=5,
        bottom=(7,) if dense else (),
        top=top,
    )
    torch.manual_seed(11)
    module = Dlrm(schema)
    generator = np.random.default_rng(11)
    emb = generator.standard_normal((6, 4, 5)).astype(np.float32)
    raw = generator.standard_normal((6, dense)).astype(np.float32)
    with torch.no_grad():
        logits = module(torch.from_numpy(emb), torch.from_numpy(raw)).numpy()
    expected = [by_hand(schema, module, emb[k], raw[k]) for k in range(6)]
    np.testing.assert_allclose(logits, expected, rtol=2e-5, atol=2e-5)


def test_flat_and_module_are_inverse() -> None:
    schema = ModelSchema("m", (SparseSlot("a"), SparseSlot("b")), (DenseFeature("x"),), dim=3, bottom=(4,), top=(5,))
    module = Dlrm(schema)
    flat = module.layout.initial(5)
    module.load_flat(flat)
    assert np.array_equal(module.flat(), flat)
    first = dict(module.named_parameters())["top.0.weight"].detach().numpy()
    assert np.array_equal(first, module.layout.split(flat)[4].values)
