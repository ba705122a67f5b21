"""What the benchmarks ask for: four views, each bound by something else."""

from __future__ import annotations

import os
import time

from flask import Flask
from flask.typing import ResponseReturnValue
from flask_caching import Cache

#: Seconds that a query of a database stands for.
QUERY = 0.05
#: Some two milliseconds of a processor of these days.
STEPS = 40_000

app = Flask(__name__)
app.config.from_mapping(CACHE_TYPE="SimpleCache", CACHE_DEFAULT_TIMEOUT=3600)
app.config.from_prefixed_env()
# Its text may be a number in JSON, which a password is not.
if "FLASK_CACHE_REDIS_PASSWORD" in os.environ:
    app.config["CACHE_REDIS_PASSWORD"] = os.environ["FLASK_CACHE_REDIS_PASSWORD"]
cache = Cache(app)


@app.get("/")
def plain() -> ResponseReturnValue:
    """Answer at once."""
    return {"message": "hello"}


@app.get("/cpu")
def cpu() -> ResponseReturnValue:
    """Answer after some work of the interpreter, which holds its lock."""
    return {"sum": sum(number * number for number in range(STEPS))}


@app.get("/io")
def io() -> ResponseReturnValue:
    """Answer after a while in which the interpreter has nothing to do."""
    time.sleep(QUERY)
    return {"waited": QUERY}


@app.get("/cached")
@cache.cached()
def cached() -> ResponseReturnValue:
    """Answer out of the cache, but for the first time."""
    time.sleep(QUERY)
    return {"message": "hello", "products": [{"number": number, "name": f"product {number}"} for number in range(20)]}


@app.get("/health")
def health() -> ResponseReturnValue:
    """Tell which release answers."""
    return {"release": os.environ.get("APP_RELEASE", "")}
