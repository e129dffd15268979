"""The producer of the integration tests."""

from tests.integration.conftest import fill

__all__ = ["fill"]
