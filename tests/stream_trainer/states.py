"""Small model states for tests of files, stores and delivery."""

import msgspec
import numpy as np

from embedding_table.table import RowsOfBlock, TableChanges
from feature_admission.state_pages import StatePages
from model_contract.dense_layout import DenseLayout
from model_contract.schema import ModelSchema, SparseSlot
from stream_trainer.model_state import Manifest, ModelState, TopicOffset

SCHEMA = ModelSchema("m", (SparseSlot("user"), SparseSlot("item")), dim=4, top=(3,))
LAYOUT = DenseLayout(SCHEMA)


def block(slot: int, ids: list[int], value: float) -> RowsOfBlock:
    n = len(ids)
    return RowsOfBlock(
        slot=slot,
        band=0,
        columns=np.arange(4, dtype=np.uint16),
        ids=np.array(ids, np.uint64),
        values=np.full((n, 4), value, np.float32),
        accumulators=np.full(n, value, np.float32),
        counts=np.ones(n, np.float32),
        last_seen_s=np.full(n, 7, np.uint32),
    )


def state(sequence: int, blocks: list[RowsOfBlock], erased: list[int] = [], lineage: str = "aaaa") -> ModelState:  # noqa: B006
    """A delta (or, at sequence 0, a base) whose dense parameters all equal its sequence."""
    manifest = Manifest(
        lineage=lineage,
        epoch=1,
        sequence=sequence,
        fingerprint=SCHEMA.fingerprint,
        created_ms=1000 + sequence,
        samples_trained=10 * sequence,
        offsets=(TopicOffset("samples", 0, 10 * sequence),),
        metrics={"auc": 0.5},
    )
    pages = StatePages("cells", np.array([sequence], np.uint32), np.full((1, 8), sequence, np.uint8))
    return ModelState(
        manifest=manifest,
        rows=TableChanges(blocks=tuple(blocks), erased_ids=np.array(erased, np.uint64)),
        arrays={
            "step/parameters": np.full(LAYOUT.size, sequence, np.float32),
            "serving/dense_mean": np.empty(0, np.float32),
            "serving/dense_std": np.empty(0, np.float32),
        },
        admission={"cells": np.zeros(64, np.uint8)} if sequence == 0 else {},
        admission_pages=() if sequence == 0 else (pages,),
    )


def merge_pages(base: dict[str, np.ndarray], pages: list[tuple[StatePages, ...]]) -> dict[str, np.ndarray]:
    """Applies pages as an admission policy would."""
    cells = base["cells"].copy()
    for taken in pages:
        for page in taken:
            cells.reshape(-1, page.pages.shape[1])[page.indices] = page.pages
    return {"cells": cells}


def assert_equal_states(left: ModelState, right: ModelState) -> None:
    assert left.manifest == right.manifest
    assert len(left.rows.blocks) == len(right.rows.blocks)
    for a, b in zip(left.rows.blocks, right.rows.blocks, strict=True):
        assert (a.slot, a.band) == (b.slot, b.band)
        for name in ("columns", "ids", "values", "accumulators", "counts", "last_seen_s"):
            assert_equal_arrays(getattr(a, name), getattr(b, name))
    assert_equal_arrays(left.rows.erased_ids, right.rows.erased_ids)
    for mine, theirs in ((left.arrays, right.arrays), (left.admission, right.admission)):
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert_equal_arrays(mine[name], theirs[name])
    assert len(left.admission_pages) == len(right.admission_pages)
    for a, b in zip(left.admission_pages, right.admission_pages, strict=True):
        assert a.array == b.array
        assert_equal_arrays(a.indices, b.indices)
        assert_equal_arrays(a.pages, b.pages)


def assert_equal_arrays(left: np.ndarray, right: np.ndarray) -> None:
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    assert left.tobytes() == right.tobytes()


def with_manifest(found: ModelState, **changes: object) -> ModelState:
    return ModelState(
        msgspec.structs.replace(found.manifest, **changes),
        found.rows,
        found.arrays,
        found.admission,
        found.admission_pages,
    )
