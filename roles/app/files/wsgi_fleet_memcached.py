"""A memcached cache for Flask-Caching over several servers, of which each may be lost without a visitor noticing.

Part of the virtual environment of an application that caches in memcached; FLASK_CACHE_TYPE names its class.

Flask-Caching's own classes give a client only what stands in its code: python-memcached gets neither timeouts nor
consistent hashing, and pylibmc, which can have both, keeps the state of servers per connection, so that each
of them waits for a dead server by itself. Here a server that has not answered is out for the whole process at once. A
thread asks it, and takes it back.
"""

import hashlib
import logging
import threading
import time

from flask_caching import backends
from pymemcache.client.base import PooledClient
from pymemcache.exceptions import MemcacheError, MemcacheUnexpectedCloseError
from pymemcache.serde import pickle_serde

#: Seconds between two looks at a server that has not answered.
PAUSE = 0.5
#: Seconds between two messages about what a server refuses.
SILENCE = 60.0

log = logging.getLogger("wsgi_fleet_memcached")


class Servers:
    """A client for several servers, with the methods that Flask-Caching calls.

    Each key belongs to the server that it is highest with (rendezvous hashing): when one is lost, its keys alone go
    to others, and they come back with it.
    """

    def __init__(self, servers, **options):
        """Connect to nothing yet.

        :param servers: host:port of each.
        :param options: of pymemcache's PooledClient, such as timeout.
        """
        self.clients = {
            server: PooledClient(server, serde=pickle_serde, no_delay=True, default_noreply=False, **options)
            for server in servers
        }
        self.out = frozenset()
        self.lock = threading.Lock()
        self.told = float("-inf")

    def owner(self, key):
        """Return the server of a key, of those that are not out."""
        names = [name for name in self.clients if name not in self.out]
        return max(names, key=lambda name: hashlib.blake2b(f"{name} {key}".encode()).digest(), default=None)

    def ask(self, server, miss, command, *args):
        """Send a command to a server, which is out when it does not answer; return the answer, or the miss."""
        if server is None:
            return miss
        try:
            return getattr(self.clients[server], command)(*args)
        except (OSError, MemcacheUnexpectedCloseError) as error:
            self.leave_out(server, error)
        except MemcacheError as error:
            # A value that is too large, a key that cannot be one, no memory.
            now = time.monotonic()
            if now - self.told >= SILENCE:
                self.told = now
                log.warning("%s refuses what it is asked for (%s), which is a miss", server, type(error).__name__)
        return miss

    def leave_out(self, server, error):
        """Ask a server no more, and look after it until it answers."""
        with self.lock:
            if server in self.out:
                return
            self.out |= {server}
        log.warning("%s does not answer (%s), and is left out until it does", server, type(error).__name__)
        threading.Thread(target=self.watch, args=(server,), name="wsgi_fleet_memcached", daemon=True).start()

    def watch(self, server):
        """Wait until a server answers, over connections of which none is from before."""
        client = self.clients[server]
        while True:
            time.sleep(PAUSE)
            try:
                client.close()
                client.version()
                break
            except Exception:  # noqa: BLE001, S112 -- whatever it is, requests must not be sent there
                continue
        with self.lock:
            self.out -= {server}
        log.warning("%s answers again", server)

    def by_owner(self, keys):
        """Return the keys of each server."""
        found = {}
        for key in keys:
            found.setdefault(self.owner(key), []).append(key)
        return found.items()

    def get(self, key):
        """Return a value, or nothing."""
        return self.ask(self.owner(key), None, "get", key)

    def get_multi(self, keys):
        """Return what is there of several keys."""
        found = {}
        for server, own in self.by_owner(keys):
            found |= self.ask(server, {}, "get_many", own)
        return found

    def set(self, key, value, timeout=0):
        """Store a value."""
        return self.ask(self.owner(key), False, "set", key, value, timeout)

    def add(self, key, value, timeout=0):
        """Store a value where there is none."""
        return self.ask(self.owner(key), False, "add", key, value, timeout)

    def set_multi(self, mapping, timeout=0):
        """Return the keys that were not stored."""
        failed = []
        for server, own in self.by_owner(mapping):
            failed += self.ask(server, own, "set_many", {key: mapping[key] for key in own}, timeout)
        return failed

    def delete(self, key):
        """Remove a value."""
        return self.ask(self.owner(key), False, "delete", key)

    def delete_multi(self, keys):
        """Remove several values."""
        for server, own in self.by_owner(keys):
            self.ask(server, False, "delete_many", own)
        return True

    def append(self, key, value):
        """Add to a value, by which Flask-Caching asks whether there is one."""
        return self.ask(self.owner(key), False, "append", key, value)

    def flush_all(self):
        """Empty all servers that answer, also after one that does not; tell whether all did."""
        done = [self.ask(server, False, "flush_all") for server in self.clients if server not in self.out]
        return all(done) and len(done) == len(self.clients)


class MemcachedCache(backends.MemcachedCache):
    """The cache: the settings of Flask-Caching's own class; CACHE_OPTIONS are those of pymemcache's PooledClient."""

    #: What Flask-Caching gives to a cache itself.
    OWN = frozenset({"default_timeout", "key_prefix", "ignore_delete_many_errors"})

    def __init__(self, servers, **options):
        """Take what Flask-Caching hands to its own class."""
        own = {name: value for name, value in options.items() if name in self.OWN}
        super().__init__(Servers(servers, **{name: options[name] for name in options.keys() - own}), **own)
