"""The lanes in which scenarios run, one after another in each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any

import pytest

#: How many there are once no other tests run.
LANES = 2


class Lanes:
    """Scenarios that wait for their turn, and those that run.

    :param names: in the order in which they begin.
    :param work: what runs one.
    """

    def __init__(self, names: list[str], work: Callable[[str], Any]) -> None:
        self.results: dict[str, Future[Any]] = {name: Future() for name in names}
        self._waiting, self._work = deque(names), work
        self._lanes: list[Thread] = []

    def open(self, count: int) -> None:
        """See that there are so many lanes."""
        while len(self._lanes) < count:
            self._lanes.append(Thread(target=self._run))
            self._lanes[-1].start()

    def close(self) -> None:
        """Begin nothing more, and wait for what runs: a scenario removes its hosts at its end."""
        self._waiting.clear()
        for lane in self._lanes:
            lane.join()

    def _run(self) -> None:
        while self._waiting:
            try:
                name = self._waiting.popleft()
            except IndexError:
                return
            try:
                self.results[name].set_result(self._work(name))
            except Exception as error:  # noqa: BLE001 -- told by the test of the scenario
                self.results[name].set_exception(error)


KEY = pytest.StashKey[Lanes]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Open one lane beside other tests, where scenarios have been chosen."""
    chosen = [
        item for item in session.items if isinstance(item, pytest.Function) and item.originalname == "test_scenario"
    ]
    if chosen and not session.config.option.collectonly:
        module: Any = chosen[0].module
        names = module.longest_first(str(item.callspec.params["scenario"]) for item in chosen)
        session.config.stash[KEY] = Lanes(names, module.molecule_test)
        session.config.stash[KEY].open(1)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave nothing that runs."""
    if KEY in session.config.stash:
        session.config.stash[KEY].close()


@pytest.fixture(scope="session")
def runs(pytestconfig: pytest.Config) -> dict[str, Future[Any]]:
    """The runs of the scenarios, under way in all lanes, since no other tests are left."""
    lanes = pytestconfig.stash[KEY]
    lanes.open(LANES)
    return lanes.results
