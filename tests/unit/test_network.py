"""The network of the demo and of the tests: it is made once, and never over something else."""

import ipaddress
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import network

NET = ipaddress.IPv4Network
HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
DEFAULT = "eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
LOCAL = "eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
TUNNEL = "tun0\t004D1FAC\t00000000\t0001\t0\t0\t0\t80FFFFFF\t0\t0\t0\n"


class Engine:
    """Answers as the docker command does."""

    def __init__(self, networks: dict[str, list[dict[str, str]] | None]) -> None:
        self.networks = networks
        self.made: list[tuple[str, ...]] = []

    def __call__(self, *arguments: str) -> str:
        match arguments[:2]:
            case ("network", "ls"):
                return "".join(f"{name}\n" for name in self.networks)
            case ("network", "inspect"):
                assert arguments[2:] == tuple(self.networks)
                found = [{"Name": name, "IPAM": {"Config": nets}} for name, nets in self.networks.items()]
                return json.dumps(found)
            case ("network", "create"):
                self.made.append(arguments[2:])
                return ""
        raise AssertionError(arguments)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    fake = Engine({"bridge": [{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}], "host": None})
    monkeypatch.setattr(network, "docker", fake)
    routes(monkeypatch, HEAD + DEFAULT + LOCAL)
    return fake


def routes(monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    """Let the machine have these routes."""

    def opened(name: str) -> SimpleNamespace:
        assert Path(name) == Path("/proc/net/route")
        return SimpleNamespace(read_text=lambda encoding: table)

    monkeypatch.setattr(network, "Path", opened)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (HEAD, {}),
        (HEAD + DEFAULT, {}),
        (HEAD + DEFAULT + LOCAL, {NET("10.0.0.0/24"): "eth0"}),
        (HEAD + TUNNEL + LOCAL, {NET("172.31.77.0/25"): "tun0", NET("10.0.0.0/24"): "eth0"}),
    ],
)
def test_routes_are_read_but_for_the_default(table: str, expected: dict[ipaddress.IPv4Network, str]) -> None:
    assert network.routes(table) == expected


def test_subnets_of_ipv4_are_listed_by_network(engine: Engine) -> None:
    engine.networks["both"] = [{"Subnet": "10.1.0.0/24"}, {"Subnet": "fd00::/64"}, {"Gateway": "10.2.0.1"}]
    assert network.networks() == {"bridge": [NET("172.17.0.0/16")], "host": [], "both": [NET("10.1.0.0/24")]}


def test_a_network_is_made_with_its_label(engine: Engine) -> None:
    assert network.main("demo", "172.31.77.0/24") == "made"
    assert engine.made == [("--label", "wsgi.fleet=network", "--subnet", "172.31.77.0/24", "demo")]


def test_a_network_that_is_there_is_left_alone(engine: Engine) -> None:
    engine.networks["demo"] = [{"Subnet": "172.31.77.0/24"}]
    assert network.main("demo", "172.31.77.0/24") == "there"
    assert engine.made == []


def test_a_network_with_another_subnet_is_named_with_its_remedy(engine: Engine) -> None:
    engine.networks["demo"] = [{"Subnet": "172.31.78.0/24"}]
    with pytest.raises(SystemExit) as end:
        network.main("demo", "172.31.77.0/24")
    assert end.value.code == (
        "error: the network demo exists with another subnet than 172.31.77.0/24: run `make clean`, then try again"
    )
    assert engine.made == []


@pytest.mark.parametrize(
    ("subnet", "table", "holder"),
    [
        ("172.17.3.0/24", HEAD, "the container network bridge"),
        ("10.0.0.128/25", HEAD + DEFAULT + LOCAL, "the route to 10.0.0.0/24 by eth0"),
        ("172.31.0.0/16", HEAD + TUNNEL, "the route to 172.31.77.0/25 by tun0"),
    ],
)
def test_a_subnet_that_something_uses_is_not_taken(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, subnet: str, table: str, holder: str
) -> None:
    routes(monkeypatch, table)
    with pytest.raises(SystemExit) as end:
        network.main("demo", subnet)
    assert end.value.code == (
        f"error: the subnet {subnet} of the network demo is in use by {holder}: remove that, or write another subnet "
        "into container_subnet and the hosts' fleet_address in the inventory"
    )
    assert engine.made == []
