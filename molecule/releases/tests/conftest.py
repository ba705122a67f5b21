"""The fixtures of this scenario."""

from release_testing import counting, fleet, rows

__all__ = ["counting", "fleet", "rows"]
