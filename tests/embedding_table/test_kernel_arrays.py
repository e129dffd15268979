"""Copies where it has to, and only there; kernels are compiled once whatever comes in."""

from collections.abc import Callable

import numpy as np
import pytest

from embedding_table.kernel_arrays import empty_on_lines, kernel_array, zeros_on_lines


def test_copies_only_what_kernels_cannot_take() -> None:
    plain = np.arange(6)
    assert kernel_array(plain) is plain
    strided = plain[::2]
    frozen = np.frombuffer(plain.tobytes(), np.int64)
    for array in (strided, frozen):
        copy = kernel_array(array)
        np.testing.assert_array_equal(copy, array)
        assert copy.flags.c_contiguous
        assert copy.flags.writeable


def test_the_table_takes_read_only_and_strided_arrays(twins: Callable) -> None:
    from embedding_table.bag_kernels import gather_bags, update_bags

    table, _ = twins(2, 4)
    ids = np.frombuffer(np.arange(1, 9, dtype=np.uint64).tobytes(), np.uint64)
    handles = table.insert(ids, (ids % np.uint64(2)).astype(np.int32), 0)
    np.testing.assert_array_equal(table.find(ids[::2]), handles[::2])
    handles.flags.writeable = False
    offsets = np.arange(0, 18, 1, dtype=np.int64)[::2][:9] // 2
    offsets.flags.writeable = False
    pooling = np.zeros(2, np.int8)
    pooling.flags.writeable = False
    out = np.empty((4, 2, 4), np.float32)
    table.gather(handles.copy(), offsets.copy(), pooling.copy(), out)
    table.update(handles.copy(), offsets.copy(), pooling.copy(), out, 0.1, 1e-6, 1)
    compiled = [len(kernel.signatures) for kernel in (gather_bags, update_bags)]  # type: ignore[attr-defined]
    table.gather(handles, offsets, pooling, out)
    out.flags.writeable = False
    table.update(handles, offsets, pooling, out, 0.1, 1e-6, 2)
    assert [len(kernel.signatures) for kernel in (gather_bags, update_bags)] == compiled  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [1, 15, 16, 1000, 1 << 20])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.uint64])
def test_vectors_on_lines(size: int, dtype: type[np.generic]) -> None:
    for make in (empty_on_lines, zeros_on_lines):
        vector = make(size, dtype)
        assert vector.dtype == dtype
        assert vector.shape == (size,)
        assert vector.ctypes.data % 64 == 0
        assert vector.flags.writeable
    assert not zeros_on_lines(size, dtype).any()
