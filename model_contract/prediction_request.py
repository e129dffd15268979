"""The body of a prediction request to columns.

`{"instances": [{"dense": {...}, "sparse": {...}}, ...]}`, or one instance `{"dense": {...}, "sparse": {...}}`; values
are those of a JSON sample.

Knows no HTTP. Invariant: a value means here what it means in a training sample: both are decoded by the same types
and columns.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from model_contract.errors import RequestError, RequestTooLarge
from model_contract.json_columns import FeatureColumns
from model_contract.json_faults import JsonFaults
from model_contract.json_forms import request_form
from model_contract.samples import Reason, SampleBatch
from model_contract.schema import ModelSchema

__all__ = ["PredictionRequestDecoder"]


class PredictionRequestDecoder:
    """Decodes request bodies of one schema; may be used from several threads.

    Args:
        schema: slots and dense features that instances may give; all others are refused.
        max_instances: most instances of a request.
        max_values: longest list of values of a multi-valued slot.
        max_bytes: longest body.
    """

    def __init__(
        self,
        schema: ModelSchema,
        max_instances: int = 10_000,
        max_values: int = 1000,
        max_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        form = request_form(schema, max_values)
        self._decode = msgspec.json.Decoder(form.body).decode
        self._instance = form.instance
        self._columns = FeatureColumns(schema)
        self._faults = JsonFaults(schema, max_values)
        self._max_instances = max_instances
        self._max_bytes = max_bytes

    def decode(self, body: bytes) -> SampleBatch:
        """Columns of the instances, in their order; labels and time stamps are 0, weights 1.

        Raises:
            RequestTooLarge: a body, a number of instances or a list of values beyond the limits.
            RequestError: anything else that is wrong; carries a JSON pointer to it.
        """
        if len(body) > self._max_bytes:
            message = f"body of {len(body)} bytes; expected at most {self._max_bytes}"
            raise RequestTooLarge(message)
        try:
            request = self._decode(body)
        except (ValueError, RecursionError) as error:
            raise self._refusal(body, error) from error
        instances = self._instances(request)
        rows = len(instances)
        bags = self._columns.bags(instances)
        return SampleBatch(
            labels=np.zeros(rows, np.float32),
            weights=np.ones(rows, np.float32),
            ts_ms=np.zeros(rows, np.int64),
            dense=self._columns.dense(instances),
            ids=bags.ids,
            offsets=bags.offsets,
        )

    def _instances(self, request: Any) -> Sequence[Any]:
        single = {name: value for name in ("sparse", "dense") if (value := getattr(request, name)) is not msgspec.UNSET}
        if request.instances is msgspec.UNSET:
            if not single:
                message = "neither instances nor sparse nor dense; expected a list of instances or one instance"
                raise RequestError(message)
            return [self._instance(**single)]
        if single:
            message = f"instances beside {' and '.join(single)}; expected a list of instances or one instance"
            raise RequestError(message)
        instances: list[Any] = request.instances
        if len(instances) > self._max_instances:
            message = f"got {len(instances)} instances; expected at most {self._max_instances}"
            raise RequestTooLarge(message, "/instances")
        if not instances:
            message = "got no instances; expected at least one"
            raise RequestError(message, "/instances")
        return instances

    def _refusal(self, body: bytes, error: Exception) -> RequestError:
        fault = self._faults.in_request(body)
        if fault is None:  # such as a key given twice, first wrong and then right
            return RequestError(str(error))
        kind = RequestTooLarge if fault.reason == Reason.TOO_MANY_VALUES else RequestError
        return kind(fault.detail, fault.pointer)
