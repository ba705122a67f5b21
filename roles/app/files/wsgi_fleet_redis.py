"""Flask-Caching's Redis cache, whose outage no visitor notices: what cannot be asked for is a miss.

Part of the virtual environment of an application that caches in Redis; FLASK_CACHE_TYPE names its class.

Once Redis has not answered, requests ask it no more: a thread does, and ends the outage. So one request of each
process pays the timeout of the settings, and no more do. Of several hosts with Sentinel, requests know the primary;
the thread asks Sentinel for another one.
"""

import functools
import logging
import threading
import time

from flask_caching import backends
from redis.exceptions import RedisError, ResponseError

#: Seconds between two looks at a Redis that has not answered.
PAUSE = 0.5
#: Seconds between two messages about what Redis refuses.
SILENCE = 60.0
#: What each call answers without a cache.
MISSES = {
    "get": lambda *_key: None,
    "get_many": lambda *keys: [None] * len(keys),
    "get_dict": lambda *keys: dict.fromkeys(keys),
    "has": lambda *_key: False,
    "set": lambda *_entry: False,
    "add": lambda *_entry: False,
    "set_many": lambda *_entries: [],
    "delete": lambda *_key: False,
    "delete_many": lambda *_keys: [],
    "unlink": lambda *_keys: 0,
    "clear": lambda: False,
    "inc": lambda *_entry: None,
    "dec": lambda *_entry: None,
}

log = logging.getLogger("wsgi_fleet_redis")


class Outage:
    """Whether Redis answers."""

    def __init__(self):
        """Begin with a Redis that answers."""
        self.lasts = False
        self.lock = threading.Lock()
        self.told = float("-inf")

    def begin(self, error, look):
        """Have requests leave Redis alone, and look after it until it answers.

        :param look: asks Redis.
        """
        with self.lock:
            if self.lasts:
                return
            self.lasts = True
        log.warning("Redis does not answer (%s): everything is a miss until it does", type(error).__name__)
        threading.Thread(target=self.watch, args=(look,), name="wsgi_fleet_redis", daemon=True).start()

    def watch(self, look):
        """Wait until Redis answers, if only with an error."""
        while self.lasts:
            time.sleep(PAUSE)
            try:
                look()
            except ResponseError:
                pass
            except Exception:  # noqa: BLE001, S112 -- whatever it is, requests must not be sent there
                continue
            self.lasts = False
        log.warning("Redis answers again")

    def tell(self, error):
        """Say what Redis refuses, such as to store more than it has memory for; not with each request."""
        now = time.monotonic()
        if now - self.told >= SILENCE:
            self.told = now
            log.warning("Redis refuses what it is asked for (%s), which is a miss", type(error).__name__)


def guarded(name, miss):
    """Return a method that asks Redis, and answers as an empty cache does when Redis cannot be asked."""
    method = getattr(backends.RedisCache, name)

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        if not self.outage.lasts:
            try:
                return method(self, *args, **kwargs)
            except ResponseError as error:
                self.outage.tell(error)
            except (RedisError, OSError) as error:
                self.outage.begin(error, self.look)
        return miss(*args)

    return call


class RedisCache(backends.RedisCache):
    """The cache, with the settings of Flask-Caching's own."""

    def __init__(self, *args, **kwargs):
        """Take what Flask-Caching hands to its own class."""
        super().__init__(*args, **kwargs)
        self.outage = Outage()

    def look(self):
        """Ask Redis for a key; there need not be one."""
        backends.RedisCache.get(self, "outage")


for _name, _miss in MISSES.items():
    if hasattr(backends.RedisCache, _name):
        setattr(RedisCache, _name, guarded(_name, _miss))


class Primary:
    """Which host is the primary: asked for once, so that no request waits for Sentinels that do not answer."""

    def __init__(self, ask):
        """Take what asks the Sentinels."""
        self.ask = ask
        self.found = None

    def __call__(self, name):
        """Return the address."""
        found = self.found
        if found is None:
            found = self.found = self.ask(name)
        return found


class RedisSentinelCache(RedisCache, backends.RedisSentinelCache):
    """The cache on several hosts, with the settings of Flask-Caching's own. All goes to the primary."""

    def __init__(self, *args, **kwargs):
        """Take what Flask-Caching hands to its own class."""
        super().__init__(*args, **kwargs)
        # What was stored a moment ago need not be on a replica yet.
        self._read_client = self._write_client
        self.pool = self._write_client.connection_pool
        self.primary = Primary(self.pool.sentinel_manager.discover_master)
        self.pool.sentinel_manager.discover_master = self.primary

    def look(self):
        """Ask the host that is the primary by now."""
        self.primary.found = None
        self.pool.disconnect(inuse_connections=False)
        super().look()
