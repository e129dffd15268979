"""Memory that is there when it is touched."""

import pytest

from embedding_table.reserved_memory import reserved_memory


@pytest.mark.parametrize("size", [0, 1, (2 << 20) + 1])
def test_it_is_large_enough_zero_and_writable(size: int) -> None:
    memory = reserved_memory(size)
    assert len(memory) >= max(size, 1)
    assert len(memory) % (2 << 20) == 0
    assert memory[-1] == 0
    memory[-1] = 7
    assert memory[-1] == 7
