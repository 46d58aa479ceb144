"""The workplace of the end-to-end tests."""

from tests.end_to_end.conftest import workplace

__all__ = ["workplace"]
