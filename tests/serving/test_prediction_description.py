from pathlib import Path
from typing import Any

import msgspec

from model_contract.prediction_request import PredictionRequestDecoder
from serving.prediction_description import describe_prediction
from serving.settings import ServingSettings


def test_the_description_names_the_models_features_and_the_limits(kit: Any) -> None:
    schema = kit.schema_with_dense()
    settings = ServingSettings(model_file=Path("unused"), max_instances=7, max_values=5)
    post = describe_prediction(schema, settings)["post"]
    many, one = post["requestBody"]["content"]["application/json"]["schema"]["oneOf"]

    assert many["properties"]["instances"]["maxItems"] == 7
    assert list(one["properties"]["sparse"]["properties"]) == ["user", "tags", "seen"]
    assert one["properties"]["sparse"]["properties"]["tags"]["anyOf"][1]["maxItems"] == 5
    assert list(one["properties"]["dense"]["properties"]) == ["x", "price", "age"]
    assert set(post["responses"]) == {"200", "400", "408", "413", "415", "422", "503"}


def test_the_example_is_a_request_the_server_takes(kit: Any) -> None:
    for schema in (kit.schema_with_dense(), kit.schema_without_dense()):
        settings = ServingSettings(model_file=Path("unused"))
        post = describe_prediction(schema, settings)["post"]
        example = post["requestBody"]["content"]["application/json"]["example"]

        assert PredictionRequestDecoder(schema).decode(msgspec.json.encode(example)).rows == 1
