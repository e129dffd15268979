"""Defaults and the secret."""

from stream_trainer.stream_settings import StreamSettings


def test_dead_letters_have_a_topic_of_their_own() -> None:
    assert StreamSettings(brokers="h:1", topic="clicks").dead_letter_topic == "clicks.dlq"


def test_the_password_is_not_shown() -> None:
    assert "geheim" not in repr(StreamSettings(brokers="h:1", topic="t", sasl_password="geheim"))
