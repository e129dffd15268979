import pytest

from model_contract.errors import SchemaError
from model_contract.redis_keys import BASE_CHUNK_BYTES, HEAD_FIELDS, RedisKeys, entry_id, sequence_of


def test_names_are_the_published_ones() -> None:
    keys = RedisKeys("globo")
    assert keys.prefix == "dimflow:{globo}:"
    assert keys.head == "dimflow:{globo}:head"
    assert keys.increments("l1") == "dimflow:{globo}:increments:l1"
    assert keys.base_chunk("l1", 40, 3) == "dimflow:{globo}:base:l1:40:3"
    assert HEAD_FIELDS == ("lineage", "epoch", "sequence", "base_sequence", "base_chunks", "base_bytes", "fingerprint")
    assert 1 << 20 <= BASE_CHUNK_BYTES <= 64 << 20


def test_no_two_models_or_purposes_share_a_key() -> None:
    keys = [
        key
        for model in ("a", "b")
        for key in (
            RedisKeys(model).head,
            *(RedisKeys(model).increments(lineage) for lineage in ("x", "y", "head")),
            *(RedisKeys(model).base_chunk(lineage, s, i) for lineage in ("x", "y") for s in (1, 11) for i in (1, 11)),
        )
    ]
    assert len(set(keys)) == len(keys)


def test_all_keys_of_a_model_share_one_hash_tag() -> None:
    keys = RedisKeys("m.1")
    for key in (keys.head, keys.increments("l"), keys.base_chunk("l", 1, 0)):
        assert key[key.index("{") + 1 : key.index("}")] == "m.1"


@pytest.mark.parametrize("name", ["", "a}b", "a:b", "a b", "x" * 65, "-a", "ä"])
def test_names_that_could_leave_their_key_are_refused(name: str) -> None:
    with pytest.raises(SchemaError, match="expected 1 to 64"):
        RedisKeys(name)
    with pytest.raises(SchemaError, match="lineage"):
        RedisKeys("m").increments(name)
    with pytest.raises(SchemaError, match="lineage"):
        RedisKeys("m").base_chunk(name, 1, 0)


def test_entry_ids_carry_the_sequence() -> None:
    assert entry_id(17) == "17-0"
    assert sequence_of(entry_id(17)) == sequence_of(b"17-0") == 17
