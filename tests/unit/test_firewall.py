"""The firewall of a host: rules, who stays let in for a while, other firewalls, and the way to confirmed rules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleFilterError
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsgi.fleet.plugins.action import firewall as action
from ansible_collections.wsgi.fleet.plugins.filter.nft_rules import nft_rules
from ansible_collections.wsgi.fleet.plugins.module_utils import _firewall as core
from ansible_collections.wsgi.fleet.plugins.module_utils._release import ReleaseError
from ansible_collections.wsgi.fleet.plugins.modules import firewall as module

UNITS = {core.UNIT: "[Service]\n", "nftables.service.d/50-wsgi-fleet.conf": "[Service]\n"}


def table(*rules: str) -> str:
    """Return a file of rules."""
    lines = "".join(f"        {rule}\n" for rule in rules)
    return (
        f"table inet wsgi_fleet {{\n    chain input {{\n        {core.BEGIN}\n{lines}        {core.END}\n    }}\n}}\n"
    )


# Rules


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ({"port": 80}, ["tcp dport 80"]),
        ({"port": "80", "protocol": "udp", "from": None}, ["udp dport 80"]),
        ({"port": 80, "from": []}, []),
        ({"port": 80, "from": ["10.0.0.2", "10.0.0.1", "10.0.0.2"]}, ["ip saddr { 10.0.0.1, 10.0.0.2 } tcp dport 80"]),
        ({"port": 80, "from": ["10.0.0.0/24", "10.0.0.7", "10.0.1.9/24"]},
         ["ip saddr { 10.0.0.0/24, 10.0.1.0/24 } tcp dport 80"]),
        ({"port": 80, "from": ["2001:DB8::1", "10.0.0.1"]},
         ["ip saddr { 10.0.0.1 } tcp dport 80", "ip6 saddr { 2001:db8::1 } tcp dport 80"]),
        ({"port": 80, "from": ["0.0.0.0/0", "10.0.0.1"]}, ["meta nfproto ipv4 tcp dport 80"]),
        ({"port": 80, "from": ["::/0", "10.0.0.1"]},
         ["ip saddr { 10.0.0.1 } tcp dport 80", "meta nfproto ipv6 tcp dport 80"]),
        ({"port": 80, "from": ["::/0", "0.0.0.0/0"]}, ["tcp dport 80"]),
        ({"protocol": "vrrp", "from": ["10.0.0.1"]}, ["ip saddr { 10.0.0.1 } meta l4proto 112"]),
    ],
)  # fmt: skip
def test_rules_let_in_who_may_ask(service: dict[str, Any], expected: list[str]) -> None:
    rules = nft_rules([{"name": "x", **service}])
    assert rules == [f'{rule} accept comment "x"' for rule in expected]
    assert all(core.RULE.fullmatch(rule) for rule in rules)


def test_a_rule_is_there_once() -> None:
    assert len(core.rules([{"name": "x", "port": 1}, {"name": "x", "port": "1"}])) == 1


def test_thousands_of_addresses_are_one_rule() -> None:
    addresses = [f"10.{number // 250}.{number % 250}.1" for number in range(2000)]
    (rule,) = core.rules([{"name": "x", "port": 1, "from": addresses}])
    assert rule.count(",") == 1999


@pytest.mark.parametrize("service", [{"name": "x"}, {"name": "x", "port": 1, "from": ["app1"]}, {"port": 1}, "x"])
def test_what_is_no_service_makes_no_rule(service: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="cannot make rules of"):
        nft_rules([service])


# Who is let in for a while


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (["tcp dport 1"], ["tcp dport 1"], []),
        (["tcp dport 1"], ["tcp dport 2"], ["tcp dport 1"]),
        # Who joins needs nothing to be kept, and who has left alone is.
        (["ip saddr { 10.0.0.1 } tcp dport 1"], ["ip saddr { 10.0.0.1, 10.0.0.2 } tcp dport 1"], []),
        (["ip saddr { 10.0.0.1, 10.0.0.2, 10.0.0.3 } tcp dport 1"], ["ip saddr { 10.0.0.2, 10.0.0.4 } tcp dport 1"],
         ["ip saddr { 10.0.0.1, 10.0.0.3 } tcp dport 1"]),
        (["ip saddr { 10.0.0.1 } tcp dport 1"], ["ip saddr { 10.0.0.0/24 } tcp dport 1"], []),
        (["ip saddr { 10.0.0.0/24 } tcp dport 1"], ["ip saddr { 10.0.0.1 } tcp dport 1"],
         ["ip saddr { 10.0.0.0/24 } tcp dport 1"]),
        (["ip saddr { 10.0.0.1 } tcp dport 1"], ["tcp dport 1"], []),
        (["ip6 saddr { 2001:db8::1 } tcp dport 1"], ["meta nfproto ipv4 tcp dport 1"],
         ["ip6 saddr { 2001:db8::1 } tcp dport 1"]),
        (["tcp dport 1"], ["meta nfproto ipv6 tcp dport 1"], ["meta nfproto ipv4 tcp dport 1"]),
        # In two rules, as after a first pass.
        (["ip saddr { 10.0.0.1 } tcp dport 1", "ip saddr { 10.0.0.2 } tcp dport 1"],
         ["ip saddr { 10.0.0.1 } tcp dport 1"], ["ip saddr { 10.0.0.2 } tcp dport 1"]),
    ],
)  # fmt: skip
def test_who_was_let_in_still_is(before: list[str], after: list[str], kept: list[str]) -> None:
    old, new, still = ([f'{rule} accept comment "x"' for rule in rules] for rules in (before, after, kept))
    text, found = core.widen(table(*new), table(*old))
    assert found == still
    assert text == table(*new, *still)
    # A second pass finds what the first has left, and adds no more.
    assert core.widen(table(*new), text) == (text, still)


@pytest.mark.parametrize(
    "line",
    ["tcp dport 1 accept", "accept", 'tcp dport 1 drop comment "x"',
     'ip saddr { 10.0.0.999 } tcp dport 1 accept comment "x"',
     'ip saddr { 10.0.0.1 } tcp dport 1 accept comment "x"; accept'],
)  # fmt: skip
def test_what_somebody_has_written_by_hand_is_not_kept(line: str) -> None:
    assert core.widen(table(), table(line)) == (table(), [])


def test_without_rules_before_nothing_is_kept() -> None:
    assert core.widen(table("tcp dport 1"), "") == (table("tcp dport 1"), [])
    with pytest.raises(ReleaseError, match="rules: have no lines"):
        core.widen("table inet wsgi_fleet { }", table())


# Other firewalls

CHAINS = """\
table ip filter {
\tchain INPUT {
\t\ttype filter hook input priority filter; policy drop;
\t}
\tchain ufw-user-input {
\t}
\tchain DOCKER {
\t}
}
table inet wsgi_fleet {
\tchain input {
\t\ttype filter hook input priority filter; policy drop;
\t}
}
table inet firewalld {
\tchain filter_INPUT {
\t\ttype filter hook input priority filter + 10; policy accept;
\t}
}
table inet f2b-table {
\tchain f2b-chain {
\t\ttype filter hook input priority filter - 1; policy accept;
\t}
}
table inet closed {
\tchain first {
\t\ttype filter hook input priority filter - 1; policy accept;
\t}
\tchain second {
\t\ttype filter hook input priority filter; policy drop;
\t}
\tchain third {
\t\ttype filter hook forward priority filter; policy drop;
\t}
}
"""


def test_other_firewalls_are_recognised() -> None:
    found = core.others(CHAINS)
    assert found == {
        "ip filter": True, "ufw": True, "docker": False, "firewalld": True, "inet f2b-table": False,
        "inet closed": True,
    }  # fmt: skip
    told = core.advice(found)
    assert [text.split()[0] for text in told] == ["ufw", "Docker", "firewalld", "inet"]
    assert core.advice(core.others("")) == []
    assert core.advice({"ip filter": True})[0].startswith("ip filter filters what comes in as well")


# The way to confirmed rules


class Kernel:
    """Answers commands as a host does, whose kernel has the text of the file that was loaded last.

    :param broken: a part of a command that fails.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.table = ""
        self.calls: list[str] = []
        self.broken = ""
        self.unit = "ActiveState=inactive\nUnitFileState=\n"

    def __call__(self, *command: str, check: bool = True) -> str:
        """Run a command."""
        text = " ".join(command).replace(str(self.root), "")
        self.calls.append(text)
        if self.broken and self.broken in text:
            if check:
                raise ReleaseError(f"{' '.join(command)}: no")
            return ""
        if command[0] == "unshare":
            return Path(command[-1]).read_text()
        if command[:2] == ("nft", "--file"):
            self.table = Path(command[2]).read_text()
        elif command[:3] == ("nft", "delete", "table"):
            self.table = ""
        elif text.startswith("nft --stateless list table"):
            return self.table
        elif text.startswith("systemctl show"):
            return self.unit
        elif text.startswith("systemctl --quiet enable"):
            self.unit = "ActiveState=active\nUnitFileState=enabled\n"
        return ""


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


@pytest.fixture
def firewall(tmp_path: Path, kernel: Kernel) -> core.Firewall:
    return core.Firewall(UNITS, tmp_path, kernel)


FIRST, SECOND = table('tcp dport 1 accept comment "x"'), table('tcp dport 2 accept comment "x"')


def have(firewall: core.Firewall, text: str) -> None:
    """Load and confirm rules."""
    firewall.confirm(firewall.load(text, 60))


def test_only_confirmed_rules_are_there_to_stay(firewall: core.Firewall, kernel: Kernel) -> None:
    assert not firewall.in_place(FIRST)
    digest = firewall.load(FIRST, 45)
    assert kernel.table == FIRST
    assert firewall.text() == ""
    assert not any(path.exists() for path in firewall.units)
    assert not firewall.in_place(FIRST)
    firewall.confirm(digest)
    assert firewall.text() == FIRST
    assert firewall.in_place(FIRST)
    assert not firewall.candidate.exists()
    assert {path.read_text() for path in firewall.units} == {"[Service]\n"}


def test_the_timer_is_there_before_the_rules(firewall: core.Firewall, kernel: Kernel) -> None:
    have(firewall, FIRST)
    kernel.calls.clear()
    firewall.load(SECOND, 45)
    (timer,) = (number for number, call in enumerate(kernel.calls) if call.startswith("systemd-run"))
    assert "--on-active=45s" in kernel.calls[timer]
    assert "nft --file /etc/wsgi.fleet/firewall.nft; } || nft delete table inet wsgi_fleet;" in kernel.calls[timer]
    assert kernel.calls.index("nft --check --file /etc/wsgi.fleet/firewall.unconfirmed.nft") < timer
    assert kernel.calls.index("nft --file /etc/wsgi.fleet/firewall.unconfirmed.nft") == timer + 1
    # One that was waiting for other rules is gone.
    assert kernel.calls.index("systemctl --quiet stop wsgi-fleet-firewall-rollback.timer") < timer


@pytest.mark.parametrize(
    "broken", ["unshare", "nft --check", "systemd-run", "nft --file /etc/wsgi.fleet/firewall.unconfirmed"]
)
def test_what_cannot_be_loaded_leaves_all_as_it_was(firewall: core.Firewall, kernel: Kernel, broken: str) -> None:
    have(firewall, FIRST)
    kernel.broken = broken
    with pytest.raises(ReleaseError, match=r"nft refuses the rules: no\Z" if broken == "unshare" else r": no\Z"):
        firewall.load(SECOND, 45)
    assert (kernel.table, firewall.text(), firewall.candidate.exists()) == (FIRST, FIRST, False)


def test_rules_that_were_taken_back_are_not_confirmed(firewall: core.Firewall, kernel: Kernel) -> None:
    have(firewall, FIRST)
    digest = firewall.load(SECOND, 45)
    # As the timer does it.
    kernel("nft", "--file", str(firewall.file))
    with pytest.raises(ReleaseError, match="firewall_rollback_after"):
        firewall.confirm(digest)
    firewall.candidate.unlink()
    with pytest.raises(ReleaseError, match="had been taken back"):
        firewall.confirm(digest)
    assert firewall.text() == FIRST


def test_another_runs_rules_are_not_confirmed(firewall: core.Firewall) -> None:
    firewall.load(FIRST, 45)
    with pytest.raises(ReleaseError, match="changed by somebody else"):
        firewall.confirm(hashlib.sha256(SECOND.encode()).hexdigest())


def broken_table(_firewall: core.Firewall, kernel: Kernel) -> None:
    kernel.table = ""


def broken_unit(firewall: core.Firewall, _kernel: Kernel) -> None:
    next(iter(firewall.units)).write_text("")


def stopped_unit(_firewall: core.Firewall, kernel: Kernel) -> None:
    kernel.unit = "ActiveState=failed\nUnitFileState=enabled\n"


def disabled_unit(_firewall: core.Firewall, kernel: Kernel) -> None:
    kernel.unit = "ActiveState=active\nUnitFileState=disabled\n"


def changed_file(firewall: core.Firewall, _kernel: Kernel) -> None:
    firewall.file.write_text(SECOND)


def unconfirmed(firewall: core.Firewall, _kernel: Kernel) -> None:
    firewall.load(FIRST, 45)


@pytest.mark.parametrize("happens", [broken_table, broken_unit, stopped_unit, disabled_unit, changed_file, unconfirmed])
def test_what_is_not_as_it_was_is_seen(
    firewall: core.Firewall, kernel: Kernel, happens: Callable[[core.Firewall, Kernel], None]
) -> None:
    have(firewall, FIRST)
    assert firewall.in_place(FIRST)
    happens(firewall, kernel)
    assert not firewall.in_place(FIRST)
    have(firewall, FIRST)
    assert firewall.in_place(FIRST)


def test_a_removed_firewall_leaves_nothing(firewall: core.Firewall, kernel: Kernel) -> None:
    assert not firewall.is_there()
    have(firewall, FIRST)
    assert firewall.is_there()
    firewall.remove()
    assert not firewall.is_there()
    assert kernel.table == ""


# The module and the action


@pytest.fixture
def call(
    firewall: core.Firewall, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """Call the module."""
    monkeypatch.setattr(module, "Firewall", lambda _units: firewall)

    def run(check: bool = False, **arguments: Any) -> dict[str, Any]:
        capsys.readouterr()
        given = {"rules": FIRST, "units": UNITS, **arguments, "_ansible_check_mode": check}
        given = {name: value for name, value in given.items() if value is not None}
        with patch_module_args(given), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run


def test_module_loads_confirms_and_then_changes_nothing(
    call: Callable[..., dict[str, Any]], kernel: Kernel, firewall: core.Firewall
) -> None:
    dry = call(check=True)
    assert (dry["changed"], "pending" in dry, kernel.calls) == (True, False, [])
    loaded = call()
    assert (loaded["changed"], loaded["diff"]["after"]) == (True, FIRST)
    assert call(confirm=loaded["pending"])["changed"]
    again = call()
    assert (again["changed"], "pending" in again, again["kept"]) == (False, False, [])
    kept = call(rules=SECOND, keep=True)
    assert kept["kept"] == ['tcp dport 1 accept comment "x"']
    assert kernel.table == table('tcp dport 2 accept comment "x"', 'tcp dport 1 accept comment "x"')
    assert firewall.text() == FIRST


def test_module_removes(call: Callable[..., dict[str, Any]], kernel: Kernel) -> None:
    assert not call(state="absent")["changed"]
    assert call(confirm=call()["pending"])["changed"]
    assert call(state="absent", check=True)["changed"]
    assert kernel.table == FIRST
    assert call(state="absent")["changed"]
    assert kernel.table == ""


def test_module_says_what_is_wrong(call: Callable[..., dict[str, Any]], kernel: Kernel) -> None:
    kernel.broken = "unshare"
    assert call()["msg"] == "nft refuses the rules: no"
    assert "rules" in call(rules=None)["msg"]
    assert call(confirm="0" * 64)["msg"].startswith("the rules had been taken back")


@pytest.mark.parametrize(
    ("answers", "resets", "expected"),
    [
        ([{"changed": False, "kept": []}], 0, {"changed": False, "kept": []}),
        ([{"failed": True, "msg": "no"}], 0, {"failed": True, "msg": "no"}),
        ([{"changed": True, "pending": "abc"}, {"changed": True}], 1, {"changed": True}),
        ([{"changed": True, "pending": "abc"}, {"failed": True, "msg": "late"}], 1,
         {"changed": True, "failed": True, "msg": "late"}),
    ],
)  # fmt: skip
def test_action_confirms_over_a_new_connection(
    monkeypatch: pytest.MonkeyPatch, answers: list[dict[str, Any]], resets: int, expected: dict[str, Any]
) -> None:
    said: list[str] = []
    result = act(monkeypatch, answers, said)
    assert result == expected
    assert said == ["module", *["reset", "module abc"] * resets]


def test_action_tells_an_operator_who_is_locked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    result = act(monkeypatch, [{"changed": True, "pending": "abc"}, AnsibleConnectionFailure("timed out")], [])
    assert result["failed"]
    assert result["msg"].startswith("firewall_ssh_from: ")
    assert "after 30 seconds" in result["msg"]
    assert "timed out" in result["msg"]


def act(monkeypatch: pytest.MonkeyPatch, answers: list[Any], said: list[str]) -> dict[str, Any]:
    """Run the action with the module's answers; what it did is noted."""
    left = list(answers)

    def execute(
        _self: object, module_args: Mapping[str, Any] | None = None, task_vars: object = None
    ) -> dict[str, Any]:
        said.append(f"module {(module_args or {}).get('confirm', '')}".strip())
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    monkeypatch.setattr(action.ActionModule, "_execute_module", execute)
    task = SimpleNamespace(args={"rules": FIRST, "rollback_after": 30}, async_val=0, check_mode=False, action="x")
    connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="unused"), reset=lambda: said.append("reset"))
    result: dict[str, Any] = action.ActionModule(task, connection, None, None, None).run(task_vars={})
    assert left == []
    return result
