"""Parquet and CSV files as batches of samples, in the file's order.

Knows no Kafka and holds a few batches at a time, so a file may be larger than memory. Invariant: batches of
`batch_rows` rows (the last one shorter), every row of the file exactly once, as `sample_columns` promises them.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from dimflow.errors import SampleFileError
from dimflow.sample_columns import FileColumns, sample_batch
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot

__all__ = ["read_samples", "schema_of_names"]

_CSV_SUFFIXES = {".csv", ".tsv"}


def schema_of_names(sparse: list[str], dense: list[str], multi: frozenset[str] = frozenset()) -> ModelSchema:
    """A schema made of names alone, for sending samples without a model file.

    Args:
        sparse: slots, at least one.
        dense: dense features.
        multi: those of the slots that hold lists.

    Raises:
        SchemaError: no slot, or a name that cannot be one.
    """
    return ModelSchema(
        name="samples",
        sparse=tuple(SparseSlot(name, multi=name in multi) for name in sparse),
        dense=tuple(DenseFeature(name) for name in dense),
    )


def read_samples(
    path: Path,
    schema: ModelSchema,
    columns: FileColumns,
    *,
    batch_rows: int = 8192,
    rows: int | None = None,
    skip_rows: int = 0,
) -> Iterator[pa.RecordBatch]:
    """Reads a `.parquet`, `.csv` or `.tsv` file (CSV may be compressed: `.csv.gz`).

    Args:
        path: the file.
        schema: names, kinds and order of slots and dense features.
        columns: what the file calls label and time. A file without the default time column is one without time; any
            other column must be there.
        batch_rows: rows of every batch but the last.
        rows: how many to read at most; None reads all.
        skip_rows: how many to leave out first.

    Yields:
        batches as `sample_columns.sample_batch` makes them.

    Raises:
        SampleFileError: not a readable file, a column is missing, or a value does not fit its column.
    """
    try:
        yield from _read(path, schema, columns, batch_rows, rows, skip_rows)
    except (OSError, pa.ArrowException) as error:
        message = f"{path}: cannot be read: {error}"
        raise SampleFileError(message) from error


def _read(
    path: Path, schema: ModelSchema, columns: FileColumns, batch_rows: int, rows: int | None, skip_rows: int
) -> Iterator[pa.RecordBatch]:
    present = _column_names(path)
    if columns.time == FileColumns().time and columns.time not in present:
        columns = FileColumns(columns.label, None, columns.list_separator)
    missing = [name for name in columns.needed(schema) if name not in present]
    if missing:
        message = f"{path}: no column {missing[0]!r}; it has {', '.join(present)}"
        raise SampleFileError(message)
    at = skip_rows
    end = None if rows is None else skip_rows + rows
    for batch in _rebatched(_raw_batches(path, schema, columns), batch_rows, skip_rows):
        if end is not None and at >= end:
            return
        taken = batch if end is None else batch.slice(0, end - at)
        yield sample_batch(taken, schema, columns, at)
        at += taken.num_rows


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".parquet":
        return ".parquet"
    found = next((suffix for suffix in reversed(suffixes[-2:]) if suffix in _CSV_SUFFIXES), None)
    if found is None:
        message = f"{path}: expected a name that ends in .parquet, .csv or .tsv"
        raise SampleFileError(message)
    return found


def _column_names(path: Path) -> list[str]:
    if _kind(path) == ".parquet":
        names: list[str] = pa.parquet.read_schema(path).names
        return names
    with pa.csv.open_csv(path, parse_options=_csv_format(path)) as reader:
        header: list[str] = reader.schema.names
    return header


def _raw_batches(path: Path, schema: ModelSchema, columns: FileColumns) -> Iterator[pa.RecordBatch]:
    """Batches of whatever size the format gives, with the needed columns alone."""
    names = columns.needed(schema)
    if _kind(path) == ".parquet":
        with pa.parquet.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=1 << 16, columns=names)
        return
    # Types are told, not guessed from the first block: 007 is an id, and a column may begin with empty cells.
    types = {name: pa.string() for name in schema.slot_names} | {name: pa.float64() for name in schema.dense_names}
    convert = pa.csv.ConvertOptions(include_columns=names, column_types=types, strings_can_be_null=True)
    with pa.csv.open_csv(path, parse_options=_csv_format(path), convert_options=convert) as reader:
        yield from reader


def _csv_format(path: Path) -> "pa.csv.ParseOptions":
    return pa.csv.ParseOptions(delimiter="\t" if _kind(path) == ".tsv" else ",")


def _rebatched(batches: Iterator[pa.RecordBatch], batch_rows: int, skip_rows: int) -> Iterator[pa.RecordBatch]:
    held: list[pa.RecordBatch] = []
    held_rows = 0
    for batch in batches:
        skipped = min(skip_rows, batch.num_rows)
        skip_rows -= skipped
        rest = batch.slice(skipped)
        while held_rows + rest.num_rows >= batch_rows:
            needed = batch_rows - held_rows
            yield _joined([*held, rest.slice(0, needed)])
            held, held_rows, rest = [], 0, rest.slice(needed)
        if rest.num_rows:
            held.append(rest)
            held_rows += rest.num_rows
    if held:
        yield _joined(held)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
