"""The click stream of the training benchmarks: Arrow messages in memory, as a topic would hold them.

The real log where it is there, else the drifting teacher: `source` says which, so that no figure wears a wrong name.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from dimflow.model_files import packaged_model_file, read_model_file
from dimflow.sample_columns import FileColumns
from dimflow.sample_files import read_samples
from dimflow.synthetic_streams import DriftingTeacher
from model_contract.arrow_samples import encode_arrow
from model_contract.schema import ModelSchema

__all__ = ["CLICKS", "ClickStream", "load_clicks"]

CLICKS = Path(__file__).resolve().parents[2] / "shared" / "data" / "globo_days_1_8.parquet"
_MESSAGE_ROWS = 4096


@dataclass(frozen=True, slots=True)
class ClickStream:
    """Samples in time order.

    Attributes:
        source: "globo" or "drifting_teacher".
        schema: of the model that learns them.
        messages: Arrow IPC streams of at most 4096 samples.
        rows: samples in all.
    """

    source: str
    schema: ModelSchema
    messages: tuple[bytes, ...]
    rows: int


def load_clicks(rows: int, data: Path = CLICKS, model: str = "globo") -> ClickStream:
    """The first `rows` samples of the file, encoded, under a packaged model; of the drifting teacher without a file."""
    if data.exists():
        source, schema = data.stem.split("_")[0], read_model_file(packaged_model_file(model))
        batches = list(read_samples(data, schema, FileColumns(), batch_rows=_MESSAGE_ROWS, rows=rows))
    else:
        teacher = DriftingTeacher(seed=0)
        source, schema = "drifting_teacher", teacher.schema
        batches = [batch.samples for batch in teacher.batches(rows, _MESSAGE_ROWS)]
    messages = tuple(encode_arrow(pa.Table.from_batches([batch]), schema) for batch in batches)
    return ClickStream(source, schema, messages, sum(batch.num_rows for batch in batches))
