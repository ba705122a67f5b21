"""A client that counts lost requests while a fleet is changed under it: open loop, constant rate, no retries.

    from tests.load import Load

    with Load([("192.0.2.1", 80), ("192.0.2.2", 80)], host="shop.example.com", rate=100) as load:
        deploy()
        returned = time.monotonic()
        time.sleep(2)
    assert not load.result.failures, load.result.explain()
    assert set(load.result.served_after(returned)) == {"<the new release>"}

As a command: ``python -m tests.load --help``. What it asks by default are the views of examples/shop.
"""

from .client import Load, LoadError
from .generator import MIX, Kind, Spec
from .result import Mixture, Request, Result, Row, dump_rows, load_rows, table

__all__ = [
    "MIX",
    "Kind",
    "Load",
    "LoadError",
    "Mixture",
    "Request",
    "Result",
    "Row",
    "Spec",
    "dump_rows",
    "load_rows",
    "table",
]
