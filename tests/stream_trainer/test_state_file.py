"""One state, one file: what is read is what was written, and damage is never read."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.data())
def test_no_bit_can_flip_and_no_byte_be_cut_off_or_added_unseen(tmp_path_factory, data) -> None:
    path = tmp_path_factory.mktemp("state") / "x.npz"
    write_state(path, state(1, [block(0, list(range(50)), 2.5)], [99]))
    content = bytearray(path.read_bytes())
    harm = data.draw(st.sampled_from(["flip", "cut", "add"]))
    if harm == "flip":
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif harm == "cut":
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content += data.draw(st.binary(min_size=1, max_size=30))
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state(path)


def test_a_file_from_before_the_seal_is_read_and_its_arrays_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    written = state(1, [block(0, list(range(50)), 2.5)], [99])
    write_state(path, written)
    content = bytearray(path.read_bytes())
    old = content[: content.rindex(b"dimflow crc32")]
    old[-2:] = b"\0\0"
    path.write_bytes(old)
    assert_equal_states(read_state(path), written)

    old[old.index(written.rows.blocks[0].values.tobytes())] ^= 1
    path.write_bytes(old)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state(path)


def test_a_file_of_another_making_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", manifest=np.frombuffer(b"{}", np.uint8))
    with pytest.raises(CheckpointError, match="expected a dimflow state"):
        read_state(tmp_path / "x.npz")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_manifest(tmp_path / "absent.npz")
