"""Make the network of the demo or of the tests, or say what is in its way.

usage: scripts/network.py NAME SUBNET

Prints "made", or "there" when the network exists. Hosts have fixed addresses in it, so a subnet
that something else uses cannot be replaced by just any other.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import socket
import struct
import subprocess
import sys
from pathlib import Path


def docker(*arguments: str) -> str:
    """Return what the docker command prints; its error message ends the script."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: docker {arguments[0]} {arguments[1]}: {done.stderr.strip()}")
    return done.stdout


def networks() -> dict[str, list[ipaddress.IPv4Network]]:
    """Return the IPv4 subnets of each network that the container engine has."""
    names = docker("network", "ls", "--quiet").split()
    found: dict[str, list[ipaddress.IPv4Network]] = {}
    for network in json.loads(docker("network", "inspect", *names)):
        subnets = [entry.get("Subnet", "") for entry in network["IPAM"]["Config"] or []]
        found[network["Name"]] = [ipaddress.IPv4Network(net) for net in subnets if "." in net]
    return found


def routes(table: str) -> dict[ipaddress.IPv4Network, str]:
    """Return the destinations in the text of /proc/net/route with their interfaces, but for the default route."""
    found: dict[ipaddress.IPv4Network, str] = {}
    for line in table.splitlines()[1:]:
        fields = line.split()
        # Hexadecimal numbers in the order of the machine's own bytes.
        address, mask = (socket.inet_ntoa(struct.pack("=L", int(fields[at], 16))) for at in (1, 7))
        if mask != "0.0.0.0":  # noqa: S104 -- the mask of the default route, no address to bind
            found[ipaddress.IPv4Network(f"{address}/{mask}")] = fields[0]
    return found


def main(name: str, wanted: str) -> str:
    """Make the network NAME on the subnet; return "made" or "there"."""
    subnet = ipaddress.IPv4Network(wanted)
    existing = networks()
    if name in existing:
        if subnet in existing[name]:
            return "there"
        sys.exit(
            f"error: the network {name} exists with another subnet than {subnet}: run `make clean`, then try again"
        )
    taken = [f"the container network {other}" for other, nets in existing.items() if any(map(subnet.overlaps, nets))]
    table = Path("/proc/net/route").read_text(encoding="ascii")
    taken = taken or [
        f"the route to {net} by {device}" for net, device in routes(table).items() if subnet.overlaps(net)
    ]
    if taken:
        sys.exit(
            f"error: the subnet {subnet} of the network {name} is in use by {taken[0]}: remove that, or write"
            " another subnet into container_subnet and the hosts' fleet_address in the inventory"
        )
    docker("network", "create", "--label", "wsgi.fleet=network", "--subnet", str(subnet), name)
    return "made"


if __name__ == "__main__":
    # The engine would make two of one name for two who ask at the same time.
    with Path(__file__).open(encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        print(main(*sys.argv[1:]))
