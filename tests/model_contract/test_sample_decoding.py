from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from model_contract.arrow_samples import encode_arrow
from model_contract.sample_decoding import ARROW_CONTENT_TYPE, JSON_CONTENT_TYPE, DecodingLimits, SampleDecoder
from model_contract.samples import Reason, SampleBatch
from model_contract.schema import ModelSchema

Plain = Callable[[ModelSchema, list[dict[str, Any]]], SampleBatch]
Same = Callable[[SampleBatch, SampleBatch], None]
AsJson = Callable[[Any], bytes]

ROWS = [{"label": i % 2, "ts_ms": i, "sparse": {"user": f"u{i}", "hour": i}} for i in range(9)]


@pytest.fixture(scope="module")
def messages(single_schema: ModelSchema, as_json: AsJson) -> list[tuple[bytes, str | None]]:
    def arrow(lo: int, hi: int) -> bytes:
        rows = ROWS[lo:hi]
        columns = {"label": [row["label"] for row in rows], "ts_ms": [row["ts_ms"] for row in rows]}
        sparse = {name: [row["sparse"][name] for row in rows] for name in ("user", "hour")}
        return encode_arrow(pa.table({**columns, **sparse}), single_schema)

    return [
        (as_json(ROWS[0]), None),
        (arrow(1, 4), ARROW_CONTENT_TYPE),
        (as_json(ROWS[4]), JSON_CONTENT_TYPE),
        (arrow(5, 6), "Application/Vnd.Apache.Arrow.Stream; charset=binary"),
        (arrow(6, 8), ARROW_CONTENT_TYPE),
        (as_json(ROWS[8]), "text/plain"),
    ]


def test_rows_stand_in_the_order_of_their_records(
    single_schema: ModelSchema, messages: list[tuple[bytes, str | None]], plain: Plain, same_batch: Same
) -> None:
    decoder = SampleDecoder(single_schema)
    decoded = decoder.decode([value for value, _ in messages], [kind for _, kind in messages])
    same_batch(decoded.batch, plain(single_schema, ROWS))
    assert decoded.source_index.tolist() == [0, 1, 1, 1, 2, 3, 4, 4, 5]
    assert decoded.rejects == ()


@pytest.mark.parametrize("form", ["json", "arrow"])
def test_one_form_alone(
    single_schema: ModelSchema,
    messages: list[tuple[bytes, str | None]],
    plain: Plain,
    same_batch: Same,
    form: str,
) -> None:
    chosen = [messages[0], messages[2]] if form == "json" else messages[3:5]
    rows = [ROWS[0], ROWS[4]] if form == "json" else ROWS[5:8]
    decoded = SampleDecoder(single_schema).decode([value for value, _ in chosen], [kind for _, kind in chosen])
    same_batch(decoded.batch, plain(single_schema, rows))


def test_rejects_keep_the_position_of_their_record(
    single_schema: ModelSchema, messages: list[tuple[bytes, str | None]], plain: Plain, same_batch: Same
) -> None:
    values: list[bytes | None] = []
    kinds: list[str | None] = []
    for value, kind in messages:
        values += [value, None, b"broken"]
        kinds += [kind, kind, kind]
    decoded = SampleDecoder(single_schema).decode(values, kinds)
    same_batch(decoded.batch, plain(single_schema, ROWS))
    assert decoded.source_index.tolist() == [0, 3, 3, 3, 6, 9, 12, 12, 15]
    broken = [Reason.NOT_JSON, Reason.BAD_ARROW, Reason.NOT_JSON, Reason.BAD_ARROW, Reason.BAD_ARROW, Reason.NOT_JSON]
    assert [(r.index, r.reason) for r in decoded.rejects] == [
        entry for i in range(6) for entry in ((3 * i + 1, Reason.NULL_MESSAGE), (3 * i + 2, broken[i]))
    ]


def test_a_message_of_the_wrong_form_is_refused(
    single_schema: ModelSchema, messages: list[tuple[bytes, str | None]]
) -> None:
    decoded = SampleDecoder(single_schema).decode([messages[0][0], messages[1][0]], [ARROW_CONTENT_TYPE, None])
    assert [reject.reason for reject in decoded.rejects] == [Reason.BAD_ARROW, Reason.NOT_JSON]


def test_limits_reach_both_forms(single_schema: ModelSchema, messages: list[tuple[bytes, str | None]]) -> None:
    values, kinds = [messages[0][0], messages[1][0]], [None, ARROW_CONTENT_TYPE]
    for limits in (DecodingLimits(max_json_bytes=10, max_arrow_bytes=10), DecodingLimits(10, max_arrow_rows=2)):
        decoded = SampleDecoder(single_schema, limits).decode(values, kinds)
        assert [reject.reason for reject in decoded.rejects] == [Reason.TOO_LARGE] * 2


def test_nothing(single_schema: ModelSchema) -> None:
    assert SampleDecoder(single_schema).decode([], []).batch.rows == 0
    with pytest.raises(ValueError, match="1 content types for 2 values"):
        SampleDecoder(single_schema).decode([b"", b""], [None])
