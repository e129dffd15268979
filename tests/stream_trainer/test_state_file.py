"""One state, one file: what is read is what was written, and damage is never read."""

from pathlib import Path

import numpy as np
import pytest

from stream_trainer.errors import CheckpointError
from stream_trainer.state_file import read_manifest, read_state, write_state
from tests.stream_trainer.states import assert_equal_states, block, state


def test_a_file_reads_back_equal(tmp_path: Path) -> None:
    written = state(3, [block(0, [5, 9], 1.5), block(1, [2], -0.0), block(1, [], 0.0)], [11, 12])

    size = write_state(tmp_path / "x.npz", written)

    assert_equal_states(read_state(tmp_path / "x.npz"), written)
    assert read_manifest(tmp_path / "x.npz") == written.manifest
    assert size == (tmp_path / "x.npz").stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_the_steps_come_in_the_order_that_makes_the_file_durable(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    seen = []
    write_state(path, state(1, []), lambda step: seen.append((step, path.exists())))

    assert seen == [
        ("after_write", False),
        ("after_fsync", False),
        ("after_rename", True),
        ("after_folder_fsync", True),
    ]


@pytest.mark.parametrize("seed", range(30))
def test_any_flipped_bit_or_cut_is_refused_or_harmless(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "x.npz"
    written = state(1, [block(0, list(range(50)), 2.5)], [99])
    write_state(path, written)
    data = bytearray(path.read_bytes())
    generator = np.random.default_rng(seed)
    if seed % 3 == 0:
        data = data[: int(generator.integers(0, len(data)))]
    else:
        data[int(generator.integers(0, len(data)))] ^= 1 << int(generator.integers(0, 8))
    path.write_bytes(data)

    try:
        found = read_state(path)
    except CheckpointError:
        return
    assert_equal_states(found, written)  # a time stamp or a spare byte of the archive, nothing that is read


def test_a_file_of_another_making_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", manifest=np.frombuffer(b"{}", np.uint8))
    with pytest.raises(CheckpointError, match="expected a dimflow state"):
        read_state(tmp_path / "x.npz")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_manifest(tmp_path / "absent.npz")
