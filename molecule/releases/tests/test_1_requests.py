"""No request is lost, whatever is done to the fleet. Each test is a row of the table.

The tests of this file build on each other, in their order. Those of the next release never return an answer of
another one after the playbook has ended.
"""

from __future__ import annotations

import json
import shutil
import ssl
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from release_testing import APP_HOSTS, BALANCERS, NAMES, Fleet, on, reboot, starts_again

from tests.load import MIX

Counting = Callable[..., Any]


def releases(fleet: Fleet, names: Iterable[str] = NAMES) -> set[str]:
    """Return the releases that are live."""
    return {state.current for state in fleet.settled(names).values()}


def after(count: Any) -> set[str]:
    """Return the releases that answered requests which were sent after the operation."""
    return set(count.result.served_after(count.returned))


def served_certificate(address: str, port: int) -> str:
    """Return the certificate that a load balancer serves."""
    return ssl.get_server_certificate((address, port), timeout=10)


def test_quiet(counting: Counting) -> None:
    """What the machine does without us: the row that the others stand beside."""
    with counting("quiet run"):
        time.sleep(15)


def test_deploy(fleet: Fleet, counting: Counting) -> None:
    """New code, built for both platforms."""
    before = releases(fleet)
    source = Path(fleet.variables["app_source"]).with_name("shop-2")
    shutil.copytree(fleet.variables["app_source"], source)
    (source / "news.txt").write_text("new")
    fleet.variables |= {"app_source": str(source), "app_version": "second"}
    with counting("deploy") as count:
        fleet.run("deploy.yml")
        count.returned = time.monotonic()
    live = releases(fleet)
    assert not live & before
    assert after(count) == live


def test_settings(fleet: Fleet, counting: Counting) -> None:
    """A changed variable is a release over the same build."""
    builds = {name: on(name, "readlink /srv/shop/current/build") for name in APP_HOSTS}
    before = releases(fleet)
    fleet.variables |= {"app_env": {"NOTE": "changed"}}
    with counting("settings change") as count:
        fleet.run("deploy.yml")
        count.returned = time.monotonic()
    assert not releases(fleet) & before
    assert after(count) == releases(fleet)
    assert builds == {name: on(name, "readlink /srv/shop/current/build") for name in APP_HOSTS}


def test_batches(fleet: Fleet, counting: Counting) -> None:
    """A canary, then half of the hosts, then the rest."""
    fleet.variables |= {"app_env": {"NOTE": "in batches"}}
    with counting("deploy in batches") as count:
        said = fleet.run("deploy.yml", {"app_batch": [1, "50%", "100%"], "app_batch_pause": 2})
        count.returned = time.monotonic()
    assert said.count("TASK [wsgi.fleet.app : Activate the release]") == 3
    assert after(count) == releases(fleet)


def test_rollback(fleet: Fleet, counting: Counting) -> None:
    """Back to the release before, which is the very same one."""
    before = fleet.settled()
    with counting("rollback") as count:
        fleet.run("rollback.yml")
        count.returned = time.monotonic()
    now = fleet.settled()
    assert now["app1"].deploy < before["app1"].deploy
    assert after(count) == releases(fleet)
    fleet.variables |= {"app_env": {"NOTE": "changed"}}
    # What it went back to is what these settings are, so that there is nothing to do.
    assert "changed=1" not in fleet.run("deploy.yml")
    assert fleet.settled() == now


@pytest.mark.parametrize("server", ["uwsgi", "gunicorn"])
def test_app_server(fleet: Fleet, counting: Counting, server: str) -> None:
    """From Gunicorn to uWSGI, and back."""
    fleet.variables |= {"app_server": server}
    with counting(f"to {server}") as count:
        fleet.run("deploy.yml")
        count.returned = time.monotonic()
    assert after(count) == releases(fleet)
    units = [on(name, "systemctl show --property ExecStart 'shop@*'") for name in APP_HOSTS]
    assert all(f"/venv/bin/{server}" in unit for unit in units)


#: Makes a package, of which each version is offered by a repository of the host's own. The second version puts a file
#: in the place of a library, and asks app2 to be booted again; the third one cannot be installed.
OFFER = r"""
set -eu
mkdir -p /opt/offered/package/DEBIAN
cd /opt/offered
cat >package/DEBIAN/postinst <<'END'
#!/bin/sh
set -e
[ "$1 $2" != "configure 2" ]
[ "$1 $2" = "configure 1" ] || exit 0
library=$(ls -d /usr/lib/*/libpcre2-8.so.0.*)
cp -p "$library" "$library.new"
mv "$library.new" "$library"
[ "$(hostname)" != app2 ] || touch /run/reboot-required
END
chmod 755 package/DEBIAN/postinst
version=$1
printf '%s\n' 'Package: offered' "Version: $version" 'Architecture: all' 'Maintainer: nobody <nobody@example.com>' \
  'Description: nothing' >package/DEBIAN/control
dpkg-deb --build package offered.deb
[ "$version" != 1 ] || dpkg --install offered.deb
{ dpkg-deb --field offered.deb; echo Filename: ./offered.deb; echo "Size: $(stat -c %s offered.deb)"
  echo "SHA256: $(sha256sum offered.deb | cut -d' ' -f1)"; } >Packages
echo 'deb [trusted=yes] file:/opt/offered ./' >/etc/apt/sources.list.d/offered.list
"""


def offer(name: str, version: int) -> None:
    """Let a host find a version of the package."""
    on(name, OFFER.replace("version=$1", f"version={version}"))


def test_scale_out_and_in(fleet: Fleet, counting: Counting) -> None:
    """One host more gets the release that the others have before it joins, and leaves again."""
    with counting("scale-out by one") as count:
        fleet.run("site.yml", scaled=True)
        count.returned = time.monotonic()
    states = fleet.settled((*APP_HOSTS, "app4"))
    assert states["app4"].current == states["app1"].current
    assert set(count.result.hosts_after(count.returned)) == {*APP_HOSTS, "app4"}
    with counting("scale-in by one") as count:
        fleet.run("site.yml")
        count.returned = time.monotonic()
    assert set(count.result.hosts_after(count.returned)) == set(APP_HOSTS)


def test_configuration_of_nginx(fleet: Fleet, counting: Counting) -> None:
    """nginx is reloaded on every app host."""
    with counting("nginx configuration"):
        said = fleet.run("site.yml", {"nginx_keepalive_timeout": 66})
    assert said.count("RUNNING HANDLER [wsgi.fleet.nginx : Reload nginx]") == 1
    fleet.variables["nginx_keepalive_timeout"] = 66


def test_configuration_of_haproxy(fleet: Fleet, counting: Counting) -> None:
    """HAProxy is reloaded on every load balancer."""
    fleet.variables["load_balancer_keepalive_timeout"] = 61
    with counting("HAProxy configuration"):
        said = fleet.run("site.yml")
    assert "RUNNING HANDLER [wsgi.fleet.load_balancer : Reload HAProxy]" in said


def test_renewal_of_the_certificate(fleet: Fleet, counting: Counting) -> None:
    """Both load balancers serve another certificate afterwards."""
    before = {served_certificate(*balancer) for balancer in BALANCERS}
    with counting("certificate renewal"):
        fleet.run("site.yml", {"certificate_renew": True})
    after_it = {served_certificate(*balancer) for balancer in BALANCERS}
    assert len(before) == len(after_it) == 1
    assert before != after_it


def greets(password: str) -> str:
    """Log in to the cache as the application does, on its own host, and return the answer."""
    talk = "exec 3<>/dev/tcp/127.0.0.1/6379; cat >&3; head -n 1 <&3"
    return on("cache1", f"printf 'AUTH shop {password}\\r\\n' | timeout 2 bash -c '{talk}'")


def test_rotation_of_secrets(fleet: Fleet, counting: Counting) -> None:
    """The cache has another password, and sessions another key, beside which the one before is still good."""
    secrets = fleet.scenario / ".secrets"
    old = {name: (secrets / name).read_text().strip() for name in ("secret_key", "cache_password")}
    before = releases(fleet)
    fleet.variables |= {
        "fleet_secret_key": "rotated" * 8,
        "fleet_cache_password": "rotated-too" * 4,
        "app_env": {**fleet.variables["app_env"], "FLASK_SECRET_KEY_FALLBACKS": json.dumps([old["secret_key"]])},
    }
    assert greets(old["cache_password"]) == "+OK"
    with counting("rotation of secrets") as count:
        said = fleet.run("site.yml")
        count.returned = time.monotonic()
    assert not after(count) & before
    assert greets(old["cache_password"]).startswith("-WRONGPASS")
    assert greets(fleet.variables["fleet_cache_password"]) == "+OK"
    shown = [secret for secret in (*old.values(), *("rotated" * 8, "rotated-too" * 4)) if secret in said]
    assert shown == []


def test_maintenance(fleet: Fleet, counting: Counting) -> None:
    """Every host gets the new version of a package, drained meanwhile, and one of them asks to be booted again.

    The package puts a file in the place of a library that nginx uses, so that nginx is restarted.
    """
    for name in APP_HOSTS:
        for version in (1, 2):
            offer(name, version)
    before = {name: on(name, "systemctl show --property MainPID nginx") for name in APP_HOSTS}
    booted = on("app2", "systemctl show --property UserspaceTimestamp")
    state = fleet.settled()
    with counting("maintenance of every host") as count, starts_again("app2"):
        said = fleet.run("maintain.yml")
        count.returned = time.monotonic()
    assert said.count("[wsgi.fleet.host : Boot it again]") == len(APP_HOSTS)
    for name in APP_HOSTS:
        assert on(name, "dpkg-query --show --showformat '${Version}' offered") == "2"
        assert on(name, "systemctl show --property MainPID nginx") != before[name]
        on(name, "test ! -e /etc/wsgi.fleet/drained && test ! -e /run/reboot-required")
    assert on("app2", "systemctl show --property UserspaceTimestamp") != booted
    assert fleet.settled() == state
    assert set(count.result.hosts_after(count.returned)) == set(APP_HOSTS)


def test_maintenance_that_fails(fleet: Fleet, counting: Counting) -> None:
    """The host stays drained, those after it are left alone, and what to do is said."""
    state = fleet.settled()
    for name in APP_HOSTS:
        offer(name, 3)
    with counting("maintenance that fails on the first host"):
        said = fleet.fails("maintain.yml")
    assert "app1: Upgrade the packages: " in said
    assert "It stays drained, and nobody notices. No host after it was touched." in said
    on("app1", "test -e /etc/wsgi.fleet/drained")
    assert on("app2", "dpkg-query --show --showformat '${Version}' offered") == "2"
    for name in APP_HOSTS:
        on(name, "rm -r /opt/offered /etc/apt/sources.list.d/offered.list && dpkg --purge --force-all offered")
    # It was drained before: so it is left.
    fleet.run("maintain.yml", {"host": "app1"})
    on("app1", "test -e /etc/wsgi.fleet/drained")
    fleet.run("undrain.yml", {"host": "app1"})
    assert fleet.settled() == state


def test_reboot(fleet: Fleet, counting: Counting) -> None:
    """A drained host reboots and comes back with the release that it had, and with no other."""
    before = fleet.settled()
    with counting("reboot of a drained host") as count:
        fleet.run("drain.yml", {"host": "app2"})
        reboot("app2")
        fleet.run("undrain.yml", {"host": "app2"})
        count.returned = time.monotonic()
    assert fleet.settled() == before
    assert set(count.result.hosts_after(count.returned)) == set(APP_HOSTS)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("restart of an instance", "systemctl restart 'shop@*'"),
        ("death of a worker", "pkill -KILL -o -P $(systemctl show --property MainPID --value 'shop@*')"),
        ("death of a whole instance", "systemctl kill --signal=KILL 'shop@*'"),
    ],
)
def test_an_instance_goes_away(fleet: Fleet, counting: Counting, name: str, command: str) -> None:
    """Clients wait for it or are answered by another host; it is soon back.

    What changes something cannot be asked for twice: a POST that is under way when its process is killed is lost. So
    is an answer that has begun, which takes some microseconds; more than one for each of two deaths would be no chance.
    """
    release = fleet.settled()["app2"].current
    lost = [] if "restart" in name else [kind for kind in MIX if kind.upload or kind.stream]
    with counting(name, [kind for kind in MIX if kind not in lost], cut=2 if lost else 0) as count:
        for _number in range(2):
            process = on("app2", f"systemctl show --property MainPID,NRestarts shop@{release}")
            on("app2", command)
            time.sleep(4)
            if "worker" not in name:
                assert process != on("app2", f"systemctl show --property MainPID,NRestarts shop@{release}")
        count.returned = time.monotonic()
        time.sleep(4)
    assert set(count.result.hosts_after(count.returned)) == set(APP_HOSTS)
    assert on("app2", f"systemctl is-active shop@{release}") == "active"


@pytest.mark.parametrize(
    ("name", "variables", "message"),
    [
        ("import error", {"app_env": {"SABOTAGE": "import"}}, "RuntimeError: sabotaged"),
        ("health answers 500", {"app_env": {"SABOTAGE": "error"}, "app_health_deadline": 8}, "Last answer: HTTP 500"),
        ("health never answers", {"app_env": {"SABOTAGE": "hang"}, "app_health_deadline": 8}, "within 8 s"),
        (
            "migration fails",
            {"app_env": {"NOTE": "x"}, "app_migrate_command": "python -c 'raise SystemExit(\"no such table\")'"},
            "no such table",
        ),
        (
            "one host of three fails",
            {"app_env": {"SABOTAGE": "{{ 'import' if inventory_hostname == 'app3' else '' }}"}},
            "The deploy failed on another host.",
        ),
        (
            "one host fails after the flip",
            {
                "app_env": {"NOTE": "y"},
                "app_check_urls": [
                    "http://127.0.0.1:{{ 81 if inventory_hostname == 'app2' else 80 }}/health",
                ],
            },
            "The deploy failed on another host.",
        ),
        (
            "the second batch fails after the flip",
            {
                "app_env": {"NOTE": "z"},
                "app_batch": 1,
                "app_check_urls": ["http://127.0.0.1:{{ 81 if inventory_hostname == 'app2' else 80 }}/health"],
            },
            "The deploy failed on another host.",
        ),
    ],
)
def test_failed_deploy(fleet: Fleet, counting: Counting, name: str, variables: dict[str, Any], message: str) -> None:
    """Every host ends on the release that it had, and no client saw another one for longer than the flip back."""
    before = fleet.settled()
    with counting(f"failed deploy: {name}") as count:
        said = fleet.fails("deploy.yml", variables)
        count.returned = time.monotonic()
    assert message in said
    assert fleet.settled() == before
    live = {state.current for state in before.values()}
    assert after(count) == live
    if "flip" not in name:
        assert set(count.result.releases) == live
