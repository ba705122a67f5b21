"""An application that caches as Flask-Caching's manual has it, with the settings of its environment.

usage: python cached.py PORT
"""

import sys
import uuid

from flask import Flask
from flask_caching import Cache
from werkzeug.serving import run_simple

app = Flask(__name__)
app.config.from_prefixed_env()
cache = Cache(app)


@app.get("/cached")
@cache.cached(timeout=60)
def cached():
    """Answer the same for a minute."""
    return {"computed": uuid.uuid4().hex}


@app.get("/memoized/<key>")
def memoized(key):
    """Answer the same for a minute, by a function that is cached with its argument."""
    return {"computed": compute(key)}


@cache.memoize(timeout=60)
def compute(_key):
    """Stand in for what takes long."""
    return uuid.uuid4().hex


@app.get("/kept/<key>")
def kept(key):
    """Answer the same for a minute, by hand; a cache without a guard fails here."""
    found = cache.get(key)
    if found is None:
        found = uuid.uuid4().hex
        cache.set(key, found, timeout=60)
    return {"computed": found}


if __name__ == "__main__":
    run_simple("0.0.0.0", int(sys.argv[1]), app, threaded=True)  # noqa: S104 -- a host of the tests
