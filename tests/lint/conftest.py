"""The slowest check takes minutes of one processor: it runs while the other tests use another."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import pytest

SANITY = pytest.StashKey[Future[None]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start ansible-test where its test has been chosen."""
    for item in session.items:
        if isinstance(item, pytest.Function) and item.originalname == "test_ansible_test_sanity":
            session.config.stash[SANITY] = ThreadPoolExecutor(1).submit(item.module.ansible_test_sanity)


@pytest.fixture
def sanity(pytestconfig: pytest.Config) -> Future[None]:
    """The run of ansible-test, under way."""
    return pytestconfig.stash[SANITY]
