"""What the kernels promise beside their numbers: stages that tile the work array, and a BLAS that can be limited."""

import subprocess
import sys

import numpy as np

from model_contract.dense_layout import DenseLayout
from model_contract.dlrm_kernels import layer_weight, network_shape, stage
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot

SCHEMA = ModelSchema("m", (SparseSlot("a"), SparseSlot("b")), (DenseFeature("x"),), dim=3, bottom=(4,), top=(6, 5))


def test_stages_tile_the_work_array() -> None:
    shape = network_shape(DenseLayout(SCHEMA))
    assert np.diff(shape.starts).tolist() == [4, 3, 3 + 3, 6, 5]  # bottom layers, what the top reads, its hidden layers
    rows = 7
    work = np.arange(rows * int(shape.starts[-1]), dtype=np.float32)
    seen = np.concatenate([stage(work, shape.starts, number, rows).ravel() for number in range(5)])
    assert np.array_equal(seen, work)


def test_layers_point_at_the_layout_s_tensors() -> None:
    layout = DenseLayout(SCHEMA)
    shape = network_shape(layout)
    flat = np.arange(layout.size, dtype=np.float32)
    weights = [tensor.values for tensor in layout.split(flat) if tensor.name.endswith("weight")]
    assert shape.bottom == 2
    for layer, weight in zip(shape.layers, weights, strict=True):
        assert np.array_equal(layer_weight(flat, layer), weight)


def test_a_limit_of_blas_threads_finds_the_blas_of_the_kernels() -> None:
    """Without it a small product spins a second thread that nobody asked for; numba alone loads BLAS too late."""
    program = """
import numpy as np, threadpoolctl
from model_contract.dlrm_kernels import forward
with threadpoolctl.threadpool_limits(1, user_api="blas"):
    from model_contract.dlrm_forward import DenseNetwork
    from tests.model_contract.test_dlrm_kernels import SCHEMA
    network = DenseNetwork(SCHEMA)
    network.logits(network.layout.initial(0), np.zeros((2, 2, 3), np.float32), np.zeros((2, 1), np.float32))
    limits = {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    assert len(limits) >= 2 and set(limits.values()) == {1}, limits
"""
    subprocess.run([sys.executable, "-c", program], check=True)
