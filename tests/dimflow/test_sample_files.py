"""Files come out whole, in order, in batches of the size asked for."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from dimflow.errors import SampleFileError
from dimflow.sample_columns import FileColumns
from dimflow.sample_files import read_samples, schema_of_names
from model_contract.errors import SchemaError
from model_contract.schema import ModelSchema

SCHEMA = schema_of_names(["user", "tags"], ["x"], frozenset({"tags"}))
LISTS = FileColumns(list_separator="|")
SHARED = Path(__file__).parents[3] / "shared" / "data"


def table(n: int) -> pa.Table:
    rng = np.random.default_rng(n)
    return pa.table(
        {
            "unused": pa.array(["?"] * n),
            "x": pa.array([None if i % 7 == 3 else float(i) for i in range(n)]),
            "label": pa.array(rng.integers(0, 2, n)),
            "user": pa.array([None if i % 5 == 1 else f"{i:03}" for i in range(n)]),
            "ts_ms": pa.array(np.arange(n) + 1_000),
            "tags": pa.array([["a"] * (i % 3) for i in range(n)]),
        }
    )


@pytest.fixture(params=["parquet", "csv", "tsv", "csv.gz"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind = str(request.param)
    path = tmp_path / f"samples.v2.{kind}"
    rows = table(1_000)
    if kind == "parquet":
        pa.parquet.write_table(rows, path, row_group_size=130)
        return path
    separator = "\t" if kind == "tsv" else ","
    lines = [separator.join(rows.column_names)]
    for row in rows.to_pylist():
        cells = [
            "|".join(cell) if isinstance(cell, list) else "" if cell is None else str(cell) for cell in row.values()
        ]
        lines.append(separator.join(cells))
    text = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(text) if kind == "csv.gz" else text)
    return path


def rows_of(path: Path, columns: FileColumns = LISTS, **options: int) -> list[dict[str, object]]:
    return [row for batch in read_samples(path, SCHEMA, columns, **options) for row in batch.to_pylist()]


def expected_rows(csv: bool) -> list[dict[str, object]]:
    rows = table(1_000).select(["label", "ts_ms", "user", "tags", "x"]).to_pylist()
    if csv:  # an empty cell is a missing value
        rows = [row | {"tags": row["tags"] or None} for row in rows]
    return rows


@pytest.mark.parametrize("batch_rows", [1_000, 64, 130, 5_000])
def test_every_row_once_in_order(path: Path, batch_rows: int) -> None:
    sizes = [batch.num_rows for batch in read_samples(path, SCHEMA, FileColumns(), batch_rows=batch_rows)]
    assert sum(sizes) == 1_000
    assert set(sizes[:-1]) <= {batch_rows}
    assert rows_of(path, batch_rows=batch_rows) == expected_rows("parquet" not in path.name)


def test_a_part_of_the_file(path: Path) -> None:
    whole = rows_of(path)
    assert rows_of(path, rows=10) == whole[:10]
    assert rows_of(path, rows=300, skip_rows=250, batch_rows=77) == whole[250:550]
    assert rows_of(path, skip_rows=990) == whole[990:]
    assert rows_of(path, skip_rows=5_000) == []
    assert rows_of(path, rows=0) == []


def test_a_part_of_a_file_that_is_read_in_several_pieces(tmp_path: Path) -> None:
    n = 150_000
    path = tmp_path / "a.parquet"
    numbers = np.arange(n)
    tags = pa.nulls(n, pa.list_(pa.string()))
    columns = {"label": numbers % 2, "ts_ms": numbers, "user": numbers, "tags": tags, "x": numbers}
    pa.parquet.write_table(pa.table(columns), path)
    for skip, rows in ((0, None), (70_000, 70_000), (140_000, None)):
        batches = list(read_samples(path, SCHEMA, FileColumns(), skip_rows=skip, rows=rows, batch_rows=9_999))
        found = np.concatenate([batch.column("user").to_numpy() for batch in batches])
        assert np.array_equal(found, numbers[skip:][:rows])


def test_ids_in_csv_keep_their_zeros(path: Path) -> None:
    assert rows_of(path, rows=1)[0]["user"] == "000"


def test_a_file_without_the_default_time_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(table(5).drop_columns(["ts_ms"]), path)
    assert "ts_ms" not in rows_of(path)[0]
    with pytest.raises(SampleFileError, match="no column 'at'; it has unused, x, label"):
        rows_of(path, FileColumns(time="at"))


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(table(5).slice(0, 0), path)
    assert rows_of(path) == []


def test_bad_values_are_named_with_their_row_in_the_file(tmp_path: Path) -> None:
    rows = table(500)
    labels = pa.array([7 if i == 432 else 1 for i in range(500)])
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(rows.set_column(2, "label", labels), path)
    with pytest.raises(SampleFileError, match="row 432: 7"):
        rows_of(path, batch_rows=100, skip_rows=13)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.parquet", None, "cannot be read"),
        ("none.csv", None, "cannot be read"),
        ("bad.parquet", b"PAR1 not really", "cannot be read"),
        ("samples.json", b"{}", "expected a name that ends in .parquet, .csv or .tsv"),
        ("short.csv", b"label,user,tags,x\n1,2,3,4\n1,2\n", "cannot be read"),
        ("empty.csv", b"", "cannot be read"),
        ("other.csv", b"label,user\n1,2\n", "no column 'tags'"),
        ("words.csv", b"label,user,tags,x\n1,2,3,much\n", "cannot be read.*much"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SampleFileError, match=message):
        rows_of(path)


def test_names_make_a_schema() -> None:
    schema = schema_of_names(["a", "b"], ["x"], frozenset({"b"}))
    assert schema.slot_names == ("a", "b")
    assert [slot.multi for slot in schema.sparse] == [False, True]
    assert schema.dense_names == ("x",)
    with pytest.raises(SchemaError):
        schema_of_names(["label"], [])


@pytest.mark.parametrize("name", ["globo_days_1_8", "movielens_1m_half", "criteo_1tb_80k"])
def test_the_real_files_by_their_model_files(name: str) -> None:
    path = SHARED / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    model = Path(__file__).parents[2] / "dimflow" / "models" / f"{name.partition('_')[0]}.toml"
    schema = ModelSchema.parse_toml(model.read_text())
    batches = list(read_samples(path, schema, FileColumns(), rows=20_000, batch_rows=4_096))
    assert [batch.num_rows for batch in batches] == [4_096] * 4 + [3_616]
    assert ("ts_ms" in batches[0].schema.names) == (not name.startswith("criteo"))
