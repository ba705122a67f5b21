"""Pytest plugin of the scenarios: what their tests share."""
