"""The state folder: chains, compaction, broken files, and a kill between any two steps."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from stream_trainer.checkpoint_store import CheckpointStore
from stream_trainer.errors import CheckpointError, StateFolderInUse
from stream_trainer.state_chain import is_newer
from tests.stream_trainer.states import assert_equal_states, block, merge_pages, state, with_manifest


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


def store(folder: Path, **options: object) -> CheckpointStore:
    return CheckpointStore(folder, merge_pages, **options)


def written(folder: Path, deltas: int, kept_bases: int = 2) -> None:
    keeper = store(folder, kept_bases=kept_bases)
    keeper.write_base(state(0, [block(0, [1, 2, 3], 0.0)]))
    for sequence in range(1, deltas + 1):
        keeper.write_delta(state(sequence, [block(0, [sequence], float(sequence))], [100 + sequence]))
    keeper.close()


def test_a_fresh_folder_holds_nothing(tmp_path: Path) -> None:
    keeper = store(tmp_path / "new" / "folder")
    assert keeper.load() is None
    keeper.close()


def test_base_and_deltas_come_back_as_one_state(tmp_path: Path) -> None:
    written(tmp_path, 3)
    keeper = store(tmp_path)
    stored = keeper.load()
    keeper.close()

    assert stored is not None
    assert stored.skipped == ()
    assert stored.state.manifest.sequence == 3
    assert stored.state.rows.blocks[0].ids.tolist() == [1, 2, 3]
    assert stored.state.rows.blocks[0].values[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert stored.state.admission["cells"].reshape(-1, 8)[:4, 0].tolist() == [0, 1, 2, 3]


def test_a_second_trainer_is_kept_out(tmp_path: Path) -> None:
    keeper = store(tmp_path)
    with pytest.raises(StateFolderInUse, match="held by another trainer"):
        store(tmp_path)
    keeper.close()
    store(tmp_path).close()


def test_compaction_changes_files_but_not_the_state(tmp_path: Path) -> None:
    written(tmp_path, 5, kept_bases=1)
    keeper = store(tmp_path, kept_bases=1)
    before = keeper.load().state
    merged = keeper.compact()
    after = keeper.load().state
    keeper.close()

    assert_equal_states(before, merged)
    assert_equal_states(before, after)
    assert sorted(p.name for p in tmp_path.glob("*.npz")) == ["base-000000000005.npz"]


def test_kept_bases_can_each_be_followed_to_the_end(tmp_path: Path) -> None:
    written(tmp_path, 2)
    keeper = store(tmp_path, kept_bases=2)
    keeper.load()
    keeper.compact()
    keeper.write_delta(state(3, [block(1, [7], 3.0)]))
    expected = keeper.load().state
    (tmp_path / "base-000000000002.npz").write_bytes(b"rotten")
    stored = keeper.load()
    keeper.close()

    assert stored.skipped == ("base-000000000002.npz",)
    assert_equal_states(stored.state, expected)
    assert (tmp_path / "base-000000000002.npz.broken").exists()


def test_a_broken_delta_ends_the_chain_before_it(tmp_path: Path) -> None:
    written(tmp_path, 4)
    path = tmp_path / "delta-000000000003.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data[: len(data) // 2 + 1])
    keeper = store(tmp_path)
    stored = keeper.load()
    keeper.close()

    assert stored.state.manifest.sequence == 2
    assert stored.skipped == ("delta-000000000003.npz", "delta-000000000004.npz")
    assert not path.exists()


def test_only_broken_bases_are_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    written(tmp_path, 1)
    (tmp_path / "base-000000000000.npz").write_bytes(b"")
    keeper = store(tmp_path)
    with pytest.raises(CheckpointError, match="none of the bases"):
        keeper.load()
    keeper.close()


@pytest.mark.parametrize("step", ["after_write", "after_fsync", "after_rename", "after_folder_fsync"])
@pytest.mark.parametrize("kind", ["delta", "base"])
def test_a_kill_at_any_step_leaves_the_state_before_or_after(tmp_path: Path, step: str, kind: str) -> None:
    written(tmp_path, 2)

    def kill(name: str) -> None:
        if name == step:
            raise Killed

    victim = store(tmp_path, at_step=kill)
    victim.load()
    with pytest.raises(Killed):
        if kind == "delta":
            victim.write_delta(state(3, [block(0, [3], 33.0)]))
        else:
            victim.compact()
    victim.close()

    keeper = store(tmp_path)
    stored = keeper.load()
    keeper.close()
    durable = step in {"after_rename", "after_folder_fsync"}
    assert stored.skipped == ()
    assert stored.state.manifest.sequence == (3 if kind == "delta" and durable else 2)
    assert stored.state.rows.blocks[0].values[2, 0] == (33.0 if kind == "delta" and durable else 0.0)
    assert np.array_equal(stored.state.rows.blocks[0].ids, [1, 2, 3])
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_standby_goes_on_from_the_newer_of_two_folders(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    written(own, 2)
    written(other, 4)
    keeper = store(own)
    fingerprint = state(0, []).manifest.fingerprint
    stored = keeper.load_newest(other, "aaaa", fingerprint)
    assert stored.state.manifest.sequence == 4
    assert sorted(path.name for path in own.glob("*.npz")) == []  # what was there steps aside, for a person to look at
    assert len(list(own.glob("*.replaced"))) == 3
    keeper.write_base(with_manifest(stored.state, epoch=2))
    keeper.write_delta(with_manifest(state(5, [block(0, [5], 5.0)]), epoch=2))

    again = keeper.load_newest(other, "aaaa", fingerprint)
    assert (again.state.manifest.epoch, again.state.manifest.sequence) == (2, 5)
    assert keeper.load_newest(tmp_path / "absent", "aaaa", fingerprint).state.manifest.sequence == 5
    keeper.close()
    assert len(list(other.glob("*.npz"))) == 5  # read, never written


@pytest.mark.parametrize(
    ("found", "known", "head", "newer"),
    [
        ({"epoch": 3, "sequence": 5}, {"epoch": 2, "sequence": 9}, "aaaa", True),
        ({"epoch": 2, "sequence": 9}, {"epoch": 2, "sequence": 9}, "aaaa", False),
        ({"lineage": "bbbb", "created_ms": 1}, {"created_ms": 2}, "bbbb", True),
        ({"lineage": "bbbb", "created_ms": 3}, {"created_ms": 2}, "aaaa", False),
        ({"lineage": "bbbb", "created_ms": 3}, {"created_ms": 2}, "", True),
    ],
)
def test_which_of_two_states_is_newer(found: dict, known: dict, head: str, newer: bool) -> None:
    manifest = state(0, []).manifest
    assert (
        is_newer(msgspec.structs.replace(manifest, **found), msgspec.structs.replace(manifest, **known), head) is newer
    )


def test_a_folder_keeps_its_name(tmp_path: Path) -> None:
    names = []
    for folder in (tmp_path / "a", tmp_path / "a", tmp_path / "b"):
        keeper = store(folder)
        names.append(keeper.home)
        keeper.close()
    assert names[0] == names[1] != names[2]
