"""What a host of a replicated Redis does around the start of its services, so that it follows whoever is primary.

usage: redis_node.py before-redis | after-redis | before-sentinel

Redis and Sentinel write what they learn into their configuration. So each starts with a copy of the one that Ansible
has written, into which this program puts the primary: that of which the Sentinels of the other hosts tell; where none
answers, that of which the Sentinel of this host told last; at the very first start, the first of all hosts.
"""

import json
import re
import shutil
import socket
import ssl
import sys
import time
from pathlib import Path

SETTINGS = Path("/etc/redis/wsgi-fleet-node.json")
#: What Ansible writes, and what the services get.
REDIS, REDIS_COPY = Path("/etc/redis/redis.conf"), Path("/run/redis/redis.conf")
SENTINEL, SENTINEL_COPY = Path("/etc/redis/wsgi-fleet-sentinel.conf"), Path("/etc/redis/sentinel.conf")
#: Seconds for one answer.
TIMEOUT = 0.5
#: Seconds in which a failover is done, once the primary counts as down.
FAILOVER = 4.0
#: Seconds for a replica to have what its primary has.
SYNCHRONISATION = 30.0


class RefusedError(Exception):
    """An error that Redis or Sentinel has answered with."""


def read_reply(stream):
    """Read one reply of the protocol of Redis, version 2."""
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("closed")
    kind, text = line[:1], line[1:-2].decode()
    if kind == b"-":
        raise RefusedError(text)
    if kind == b"$":
        return stream.read(int(text) + 2)[:-2].decode() if int(text) >= 0 else None
    if kind == b"*":
        return [read_reply(stream) for _number in range(int(text))]
    return text


def ask(settings, address, port, *words):
    """Ask Redis or Sentinel on a host, as the user of the Sentinels.

    Raises OSError when it does not answer, and RefusedError when it does so with an error.
    """
    with socket.create_connection((address, port), timeout=TIMEOUT) as plain:
        link = plain
        if settings["authority"]:
            context = ssl.create_default_context(cafile=settings["authority"])
            link = context.wrap_socket(plain, server_hostname=address)
        with link, link.makefile("rwb") as stream:
            reply = None
            for command in (("AUTH", settings["user"], settings["password"]), words):
                parts = [f"*{len(command)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in command)]
                stream.write("".join(parts).encode())
                stream.flush()
                reply = read_reply(stream)
            return reply


def told(settings):
    """Return the address of the primary as the Sentinel of another host tells it; nothing when none does."""
    question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", settings["name"])
    for address in settings["nodes"]:
        if address != settings["address"]:
            try:
                found = ask(settings, address, settings["sentinel_port"], *question)
            except (OSError, RefusedError, ValueError):
                continue
            if found:
                return found[0]
    return ""


def remembered(settings, text):
    """Return the address of the primary in what the Sentinel of this host has written, or else the first of all."""
    found = re.search(rf"^sentinel monitor {re.escape(settings['name'])} (\S+) ", text, re.MULTILINE)
    return found[1] if found else settings["nodes"][0]


def read(path):
    """Return the text of a file, which need not be there."""
    return path.read_text() if path.exists() else ""


def write(path, text):
    """Put a file of the services' account in the place of an old one."""
    new = path.with_suffix(".new")
    new.touch(mode=0o640)
    new.write_text(text)
    shutil.chown(new, "redis", "redis")
    new.replace(path)


def redis_text(settings, text, primary):
    """Return the configuration of Redis on a host that is the primary, or follows it."""
    return text if primary == settings["address"] else f"{text}replicaof {primary} {settings['port']}\n"


def sentinel_text(settings, text, old, primary):
    """Return the configuration of Sentinel: what Ansible has written, with the primary and the votes that it cast."""
    name = re.escape(settings["name"])
    text = re.sub(rf"^(sentinel monitor {name}) \S+", rf"\1 {primary}", text, flags=re.MULTILINE)
    text = re.sub(rf"^sentinel known-replica {name} {re.escape(primary)} .*\n", "", text, flags=re.MULTILINE)
    votes = re.findall(
        rf"^sentinel (?:current-epoch|config-epoch {name}|leader-epoch {name}) [0-9]+$", old, re.MULTILINE
    )
    return text + "".join(f"{line}\n" for line in votes)


def before_redis(settings):
    """Let Redis start as what it is by now.

    A primary that has stopped waits until another host has taken over from it: it may have lost what it held, and the
    others would throw theirs away for that.
    """
    text = read(REDIS)
    # Otherwise left behind by a fleet that had more hosts: Redis stands alone.
    if settings["replicates"]:
        found, end = told(settings), time.monotonic() + settings["down_after"] + FAILOVER
        while found == settings["address"] and time.monotonic() < end:
            time.sleep(0.2)
            found = told(settings) or found
        text = redis_text(settings, text, found or remembered(settings, read(SENTINEL_COPY)))
    write(REDIS_COPY, text)


def after_redis(settings):
    """Wait until Redis has what its primary has, so that hosts restarted one after another lose nothing."""
    end = time.monotonic() + SYNCHRONISATION
    while settings["replicates"] and time.monotonic() < end:
        try:
            role = ask(settings, settings["address"], settings["port"], "ROLE")
            if role[0] == "master" or role[3] == "connected":
                return
        except (OSError, RefusedError, ValueError):
            pass
        time.sleep(0.2)


def before_sentinel(settings):
    """Let Sentinel start with the primary that there is, and with all other hosts known."""
    old = read(SENTINEL_COPY)
    primary = told(settings) or remembered(settings, old)
    write(SENTINEL_COPY, sentinel_text(settings, read(SENTINEL), old, primary))


def main():
    """Do what the unit asks for."""
    settings = json.loads(SETTINGS.read_text())
    # One host alone has no user for the others.
    settings["replicates"] = "masteruser" in read(Path(settings["users"]))
    steps = {"before-redis": before_redis, "after-redis": after_redis, "before-sentinel": before_sentinel}
    steps[sys.argv[1]](settings)


if __name__ == "__main__":
    main()
