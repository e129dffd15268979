"""`dimflow checkpoint`: what is there, whether it is sound, and out of the folder into plain numpy."""

import json
from pathlib import Path

import numpy as np
import pytest

from dimflow.command import main
from model_contract.dense_layout import DenseLayout
from model_contract.feature_id import feature_id
from stream_trainer.checkpoint_store import CheckpointStore
from tests.stream_trainer.states import LAYOUT, SCHEMA, block, merge_pages, state

MODEL = """
[model]
name = "m"
dim = 4
top = [3]

[[sparse]]
name = "user"

[[sparse]]
name = "item"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keeper = CheckpointStore(tmp_path / "state", merge_pages)
    keeper.write_base(state(0, [block(0, [feature_id("user", "ann"), 2], 0.0)]))
    keeper.write_delta(state(1, [block(0, [2], 1.0), block(1, [7], 2.5)]))
    keeper.write_delta(state(2, [block(1, [8], 3.5)], [2]))
    keeper.close()
    (tmp_path / "model.toml").write_text(MODEL)
    return tmp_path / "state"


def test_a_list_names_sequence_kind_samples_offsets_size_and_age(folder: Path, capsys) -> None:
    assert main(["checkpoint", "list", "--state-dir", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert lines[0].split() == ["sequence", "kind", "epoch", "samples", "bytes", "age", "offsets"]
    assert lines[1].split()[:4] == ["0", "base", "1", "0"]
    assert lines[3].split()[:4] == ["2", "delta", "1", "20"]
    assert lines[3].endswith(" d  samples/0=20")
    size = (folder / "delta-000000000002.npz").stat().st_size
    assert f"{size:,}" in lines[3]

    assert main(["checkpoint", "list", "--state-dir", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [file["manifest"]["sequence"] for file in found] == [0, 1, 2]
    assert found[2]["size_bytes"] == size


def test_verify_reads_every_byte_and_names_what_is_damaged(folder: Path, capsys) -> None:
    assert main(["checkpoint", "verify", "--state-dir", str(folder)]) == 0
    assert "DAMAGED" not in capsys.readouterr().out
    path = folder / "delta-000000000001.npz"
    content = bytearray(path.read_bytes())
    content[content.index(np.full(4, 2.5, np.float32).tobytes())] ^= 1
    path.write_bytes(content)

    assert main(["checkpoint", "list", "--state-dir", str(folder)]) == 0  # a list does not look into the rows
    assert "DAMAGED" not in capsys.readouterr().out
    assert main(["checkpoint", "verify", "--state-dir", str(folder)]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("dimflow checkpoint: delta-000000000001.npz is damaged: ")
    assert told.err.count("\n") == 1
    assert told.out.count("DAMAGED") == 1


def test_verify_of_an_empty_or_absent_folder_is_no_success(tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["checkpoint", "verify", "--state-dir", str(tmp_path / "empty")]) == 1
    assert main(["checkpoint", "verify", "--state-dir", str(tmp_path / "absent")]) == 1
    told = capsys.readouterr().err
    assert "holds no checkpoint" in told
    assert "expected a folder" in told


def test_an_export_is_the_merged_state_for_numpy_alone(folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "model.npz"
    options = ["--state-dir", str(folder), "--model-file", str(tmp_path / "model.toml"), "--out", str(out)]
    keeper = CheckpointStore(folder, merge_pages)  # a trainer at work does not mind
    assert main(["checkpoint", "export", *options]) == 0
    keeper.close()
    told = json.loads(capsys.readouterr().out)
    assert (told["sequence"], told["samples"], told["rows"], told["bytes"]) == (2, 20, 3, out.stat().st_size)

    with np.load(out, allow_pickle=False) as model:
        rows = {
            (str(model[f"blocks/{k}/slot"]), int(i)): values
            for k in range(int(model["blocks"]))
            for i, values in zip(model[f"blocks/{k}/ids"], model[f"blocks/{k}/values"], strict=True)
        }
        assert rows.keys() == {("user", feature_id("user", "ann")), ("item", 7), ("item", 8)}
        assert rows["item", 7].tolist() == [2.5] * 4
        assert model["blocks/0/columns"].tolist() == [0, 1, 2, 3]
        assert model["slots"].tolist() == ["user", "item"]
        assert model["missing_ids"].tolist() == SCHEMA.missing_ids.tolist()
        assert json.loads(str(model["manifest"]))["offsets"] == [["samples", 0, 20]]
        tensors = {name.removeprefix("dense/"): model[name] for name in model.files if name.startswith("dense/")}
        assert {n: v.shape for n, v in tensors.items()} == {e.name: e.shape for e in DenseLayout(SCHEMA).entries}
        assert sum(values.size for values in tensors.values()) == LAYOUT.size
        assert all((values == 2.0).all() for values in tensors.values())


def test_an_export_says_what_it_leaves_out_and_what_it_cannot_do(folder: Path, tmp_path: Path, capsys) -> None:
    (folder / "delta-000000000002.npz").write_bytes(b"")
    options = ["--state-dir", str(folder), "--model-file", str(tmp_path / "model.toml")]
    assert main(["checkpoint", "export", *options, "--out", str(tmp_path / "x.npz")]) == 0
    told = capsys.readouterr()
    assert "delta-000000000002.npz is left out" in told.err
    assert json.loads(told.out)["sequence"] == 1
    assert (folder / "delta-000000000002.npz").exists()

    assert main(["checkpoint", "export", *options, "--out", str(tmp_path / "absent" / "x.npz")]) == 1
    assert "--out" in capsys.readouterr().err
    (tmp_path / "model.toml").write_text(MODEL.replace("dim = 4", "dim = 8"))
    assert main(["checkpoint", "export", *options, "--out", str(tmp_path / "y.npz")]) == 1
    assert "expected the same model" in capsys.readouterr().err
