"""The example application behind the whole chain, and what changes of the fleet do to its clients.

The tests of this file build on each other, in their order. What deploys do to clients is counted in the scenario
releases.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from fleet_testing import Answer, Load, ask, host_named, open_from, put, run_playbook, site, status_from

BALANCER = "172.31.78.101"
CONTROLLER = "172.31.78.1"
APP1, CACHE1 = "172.31.78.111", "172.31.78.121"
SHOP = {"Host": "shop.example.com"}
#: A secret of the application's own, from group_vars.
CANARY = "canary-3f9a1c77e0b2d84a5c61"


def shop(path: str, **options: Any) -> Answer:
    """Ask the shop through the load balancer."""
    return ask(BALANCER, path, headers={**SHOP, **options.pop("headers", {})}, **options)


def served_by(count: int = 24) -> dict[str, str]:
    """Send some requests and return the release that each host answered with."""
    answers = [shop("/whoami").headers["x-served-by"].split("/") for _number in range(count)]
    found: dict[str, str] = {}
    for host, release in answers:
        assert found.setdefault(host, release) == release, f"{host} answers with two releases"
    return found


@pytest.fixture(scope="module", autouse=True)
def deployed() -> None:
    """Bring the shop back where an earlier verification left another application."""
    if "x-served-by" not in shop("/whoami").headers:
        assert site().returncode == 0


def test_both_hosts_answer() -> None:
    assert set(served_by()) == {"app1", "app2"}


def test_the_application_sees_its_client_as_it_is() -> None:
    """Address, scheme and host arrive through both proxies, a client's own claims do not."""
    lies = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example.com"}
    for headers in ({}, lies):
        seen = json.loads(shop("/whoami", headers=headers).body)
        assert (seen["client"], seen["forwarded_for"]) == (CONTROLLER, CONTROLLER)
        assert (seen["scheme"], seen["host"], seen["url"]) == (
            "http",
            "shop.example.com",
            "http://shop.example.com/whoami",
        )


def test_other_names_reach_no_application() -> None:
    assert ask(BALANCER, headers={"Host": "other.example.com"}).status == 421
    assert status_from(host_named("lb1"), APP1, "/", "other.example.com") == 421


def test_strangers_get_to_the_load_balancer_alone() -> None:
    """Neither the controller nor a host that is in no group yet; each group hears the one before it."""
    ports = (22, 80, 6379, 8404)
    stranger, balancer, app2 = (host_named(name) for name in ("app3", "lb1", "app2"))
    assert [open_from(stranger, address, 80, 6379) for address in (BALANCER, APP1, CACHE1)] == [[80], [], []]
    assert [open_from(balancer, address, *ports) for address in (APP1, CACHE1)] == [[80], []]
    assert [open_from(app2, address, *ports) for address in (APP1, CACHE1)] == [[], [6379]]
    with pytest.raises(TimeoutError):
        ask(APP1, timeout=1)


def test_redirects_lead_to_the_public_name() -> None:
    assert shop("/redirect").headers["location"] == "http://shop.example.com/"


def test_all_hosts_share_the_cache() -> None:
    """What one host has computed, the other one serves."""
    computed: set[str] = set()
    # What is there may expire meanwhile, but what comes after that will not.
    for _attempt in range(2):
        answers = [shop("/cached") for _number in range(12)]
        assert {answer.headers["x-served-by"].split("/")[0] for answer in answers} == {"app1", "app2"}
        computed = {json.loads(answer.body)["computed_at"] for answer in answers}
        if len(computed) == 1:
            break
    assert len(computed) == 1


def test_a_dead_cache_is_no_error() -> None:
    """Without Redis the cached view still answers, soon, and the check does not take the hosts out."""
    cache = host_named("cache1")
    cache.run_test("systemctl stop redis-server")
    try:
        answers = [shop("/cached", timeout=3) for _number in range(6)]
        assert [answer.status for answer in answers] == [200] * 6
        health = shop("/health")
        assert (health.status, json.loads(health.body)["status"]) == (200, "degraded")
    finally:
        cache.run_test("systemctl start redis-server")
    # A thread of each worker notices.
    end = time.monotonic() + 10
    while {json.loads(shop("/health").body)["cache"] for _number in range(12)} != {"ok"}:
        assert time.monotonic() < end, "the cache is back, and workers still do without it"


def test_static_files_come_from_the_release() -> None:
    answer = shop("/static/style.css")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/css")
    assert "x-served-by" not in answer.headers


def test_an_upload_arrives_whole_and_outlives_releases() -> None:
    body = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(256)) * 640
    head = b'--cut\r\nContent-Disposition: form-data; name="file"; filename="data.bin"\r\n\r\n'
    answer = shop(
        "/upload",
        method="POST",
        headers={"Content-Type": "multipart/form-data; boundary=cut"},
        body=head + body + b"\r\n--cut--\r\n",
    )
    assert answer.status == 201, answer.text
    assert json.loads(answer.body)["sha256"] == hashlib.sha256(body).hexdigest()
    host = host_named(json.loads(answer.body)["hostname"])
    stored = host.file("/srv/shop/shared/uploads/data.bin")
    assert (stored.user, stored.size) == ("shop", len(body))


def secrets() -> list[str]:
    """Return what nobody may see: the secrets of the fleet, and one of the application's own."""
    directory = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"], ".secrets")
    made = [(directory / name).read_text().strip() for name in ("secret_key", "release_key", "cache_password")]
    assert [len(text) for text in made] == [64, 64, 48]
    return [*made, CANARY]


def look_for_secrets(name: str) -> None:
    """See that neither the journal of a host, nor its processes, nor a file that everybody can read tells one."""
    host = host_named(name)
    # Through a file, since commands of this test are in the journal too.
    put(host, "/root/needles", "\n".join(secrets()) + "\n")
    found = host.check_output(
        "{ journalctl --no-pager; ps axww; } | grep -F -f /root/needles;"
        "find /etc /home /opt /run /srv /tmp /usr/local /var -xdev -type f -perm -004 -print0 |"
        " xargs -0 grep -slF -f /root/needles; rm /root/needles"
    )
    assert found == ""


def test_secrets_appear_in_no_log_process_or_world_readable_file() -> None:
    """The cache's password is on the app host only in the environment file of the release."""
    for name in ("app1", "app2", "cache1", "lb1"):
        look_for_secrets(name)
    app = host_named("app1")
    put(app, "/root/needles", "\n".join(secrets()) + "\n")
    found = app.check_output("grep -rslF -f /root/needles /srv /etc /run /var; rm /root/needles")
    assert {line.rsplit("/", 1)[1] for line in found.splitlines()} == {"env"}
    # Each of them is there, but for the one that stays on the controller.
    environment = app.check_output("cat /srv/shop/current/env")
    assert [text in environment for text in secrets()] == [True, False, True, True]
    assert app.check_output("stat -c '%a %U' /srv/shop/current/env") == "600 root"


def test_a_release_that_fails_on_one_host_goes_live_on_none() -> None:
    """The cache type is broken on one host: its gate fails, and every host keeps its release."""
    before = served_by()
    broken = (
        "{\"app_env\": {\"FLASK_CACHE_TYPE\": \"{{ 'Nonsense' if inventory_hostname == 'app2' else 'RedisCache' }}\"}}"
    )
    with Load(BALANCER, "/whoami", headers=SHOP, methods=("GET",)) as load:
        done = site("--extra-vars", broken)
    assert done.returncode == 2, done.stdout
    assert "did not pass its gate" in done.stdout
    # The value is one of the environment, and so not shown.
    assert "Nonsense" not in done.stdout
    assert "app_module: 'shop:app' cannot be imported: ImportError: module 'flask_caching.backends'" in done.stdout
    assert load.failures == []
    assert served_by() == before
    for name in ("app1", "app2"):
        units = host_named(name).check_output("systemctl list-units --plain --no-legend 'shop@*'")
        assert len(units.splitlines()) == 1, units


def test_a_release_with_a_dead_cache_does_not_go_live() -> None:
    """The gate asks for the cache, so that a wrong password stops a deploy and not the service."""
    before = served_by()
    done = site("--extra-vars", '{"app_env": {"FLASK_CACHE_REDIS_PASSWORD": "wrong-one"}}')
    assert done.returncode == 2
    assert "AuthenticationError" in done.stdout
    assert served_by() == before


def test_a_host_joins_and_leaves_without_a_lost_request() -> None:
    """It is retired before its line goes; that a line can go at any time shows the scenario releases."""
    assert site().returncode == 0
    with Load(BALANCER, "/whoami", headers=SHOP, methods=("GET",)) as load:
        done = site("-vvv", "--diff", inventories=("hosts.yml", "scale.yml"))
        assert done.returncode == 0, done.stdout
        # Everything that a new host is given, as talkatively as can be.
        assert [text for text in secrets() if text in done.stdout + done.stderr] == []
        assert "module_args" in done.stdout
        look_for_secrets("app3")
        assert set(served_by()) == {"app1", "app2", "app3"}
        app1, app3 = (host_named(name) for name in ("app1", "app3"))
        assert open_from(app3, CACHE1, 6379) == [6379]
        # The host of the same platform took the build over, byte by byte.
        digest = (
            "cd /srv/shop/current/build/ && find code venv -type f ! -name '*.pyc' | sort | xargs sha256sum | sha256sum"
        )
        assert app1.check_output(digest) == app3.check_output(digest)
        put(app3, "/srv/shop/shared/uploads/kept.txt", "mine")
        for _again in range(2):
            done = run_playbook("retire_host.yml", "--extra-vars", "host=app3", inventories=("hosts.yml", "scale.yml"))
            assert done.returncode == 0, done.stdout
            assert set(served_by()) == {"app1", "app2"}
        assert "changed=0" in done.stdout
        assert "shop: /srv/shop/shared is kept" in done.stdout
        done = site()
        assert done.returncode == 0, done.stdout
        assert set(served_by()) == {"app1", "app2"}
    assert load.failures == []
    assert {name.split("/")[0] for name in load.seen} == {"app1", "app2", "app3"}
    assert open_from(app3, CACHE1, 6379) == []
    assert app3.check_output("ls -A /srv/shop; cat /srv/shop/shared/uploads/kept.txt") == "shared\nmine"
    assert app3.check_output("systemctl list-units --all --plain --no-legend 'shop*'; ls /etc/systemd/system") == (
        app3.check_output("ls /etc/systemd/system | grep -v '^shop'")
    )
    assert app3.run_test("systemctl is-enabled nginx").stdout.strip() == "disabled"


def test_a_second_run_changes_nothing() -> None:
    done = site()
    assert done.returncode == 0
    recap = re.findall(r"^(\w+) +: ok=\d+ +changed=(\d+)", done.stdout, re.MULTILINE)
    assert dict(recap) == dict.fromkeys(("app1", "app2", "app3", "cache1", "lb1"), "0")


@pytest.mark.parametrize("host", ["app1", "app2", "app3", "cache1", "lb1"])
def test_no_unit_has_failed(host: str) -> None:
    assert host_named(host).check_output("systemctl list-units --failed --plain --no-legend") == ""
