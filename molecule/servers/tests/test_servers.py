"""Every app server and worker model, on the Python of each platform: the same answers, and flips between all of them.

Each of them serves the example and httpbin, and must behave like the others. Then the example flips from each one to
each other one while clients count what they lose.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_testing import Answer, ask, host_named, run_playbook

from tests.load import Load

ADDRESSES = {"old": "172.31.78.83", "new": "172.31.78.84"}
CONTROLLER = "172.31.78.1"
NAMES = {"shop": "shop.example.com", "httpbin": "bin.example.com"}

#: What makes an application run under each of them, with at least four requests at a time.
MODELS: dict[str, dict[str, Any]] = {
    "gunicorn sync": {"app_server": "gunicorn", "gunicorn_worker_class": "sync", "gunicorn_workers": 4},
    "gunicorn gthread": {"app_server": "gunicorn", "gunicorn_workers": 2, "gunicorn_threads": 4},
    "gunicorn gevent": {"app_server": "gunicorn", "gunicorn_worker_class": "gevent", "gunicorn_workers": 2},
    "gunicorn tornado": {"app_server": "gunicorn", "gunicorn_worker_class": "tornado", "gunicorn_workers": 4},
    # A version that still has it.
    "gunicorn eventlet": {
        "app_server": "gunicorn",
        "app_server_requirement": "gunicorn==25.3.0",
        "gunicorn_worker_class": "eventlet",
        "gunicorn_workers": 2,
    },
    "uwsgi processes": {"app_server": "uwsgi", "uwsgi_processes": 4, "uwsgi_threads": 1},
    "uwsgi threads": {"app_server": "uwsgi", "uwsgi_processes": 2, "uwsgi_threads": 4},
    "granian": {"app_server": "granian", "granian_workers": 2, "granian_threads": 4},
}
#: What a process of each shows to be that server's, and no other's.
MARKS = {
    "gunicorn": "/venv/bin/gunicorn --config",
    "uwsgi": "/venv/bin/uwsgi --ini",
    "granian": "/granian_launch.py",
}
#: Seconds that four requests of one second each may take when they come at the same time. Tornado's workers answer
#: one after the other, and one of them may have taken all four.
AT_ONCE = {model: 5.0 if model == "gunicorn tornado" else 2.7 for model in MODELS}

#: Kills all processes of an instance, and ends once none of them can take a request any more.
DEATH = """
unit=%s; main=$(systemctl show --property MainPID --value $unit)
processes="$main $(pgrep --parent $main)"
systemctl kill --signal=KILL $unit
for process in $processes; do while kill -0 $process 2>/dev/null; do sleep 0.02; done; done
"""

#: The releases of the example by model and host, as they were deployed.
RELEASES: dict[str, dict[str, str]] = {}


def deploy(app: str, model: str) -> str:
    """Deploy an application under a model; return what went wrong."""
    done = run_playbook("deploy.yml", "--extra-vars", json.dumps({"app_name": app, **MODELS[model]}))
    return done.stdout + done.stderr if done.returncode else ""


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest) -> str:
    """A model under which both applications run now."""
    chosen = str(request.param)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for problem in pool.map(deploy, NAMES, itertools.repeat(chosen)):
            assert not problem, problem
    RELEASES[chosen] = {
        name: host_named(name).check_output("basename $(readlink /srv/shop/current)") for name in ADDRESSES
    }
    return chosen


@pytest.fixture(params=list(ADDRESSES))
def name(request: pytest.FixtureRequest) -> str:
    """A host."""
    return str(request.param)


def shop(name: str, path: str, **options: Any) -> Answer:
    """Ask the example on a host."""
    headers = {"Host": NAMES["shop"], **options.pop("headers", {})}
    return ask(ADDRESSES[name], path, headers=headers, **options)


def upload(name: str, body: bytes) -> Answer:
    """Send the example a file, as a browser does."""
    head = b'--cut\r\nContent-Disposition: form-data; name="file"; filename="data.bin"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=cut"}
    return shop(name, "/upload", method="POST", headers=headers, body=head + body + b"\r\n--cut--\r\n", timeout=30)


def httpbin(name: str, path: str, **options: Any) -> Answer:
    """Ask httpbin on a host."""
    headers = {"Host": NAMES["httpbin"], **options.pop("headers", {})}
    return ask(ADDRESSES[name], path, headers=headers, **options)


def test_it_is_that_server(model: str, name: str) -> None:
    """With as many processes, and it is what nginx asks."""
    host = host_named(name)
    server = MODELS[model]["app_server"]
    release = RELEASES[model][name]
    command = host.check_output("systemctl show --property ExecStart --value shop@%s", release)
    assert MARKS[server] in command
    assert shop(name, "/whoami").headers["x-served-by"] == f"{name}/{release}"
    processes = MODELS[model].get("gunicorn_workers") or MODELS[model].get("uwsgi_processes") or 2
    children = host.check_output("pgrep --count --parent $(systemctl show --property MainPID --value shop@%s)", release)
    assert int(children) >= processes


def test_the_application_sees_its_client_as_it_is(model: str, name: str) -> None:
    """Address, scheme and host are those of the request, whatever a client claims."""
    lies = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example.com"}
    for headers in ({}, lies):
        seen = json.loads(shop(name, "/whoami", headers=headers).body)
        assert (seen["client"], seen["scheme"], seen["host"]) == (CONTROLLER, "http", "shop.example.com")
        assert seen["url"] == "http://shop.example.com/whoami"
    seen = json.loads(httpbin(name, "/get?a=1&b=two%20words", headers={"X-Own": "kept"}).body)
    assert (seen["url"], seen["origin"]) == ("http://bin.example.com/get?a=1&b=two%20words", CONTROLLER)
    assert (seen["args"], seen["headers"]["X-Own"]) == ({"a": "1", "b": "two words"}, "kept")


def test_bodies_arrive_whole(model: str, name: str) -> None:
    """In both directions, with and without a length known beforehand, at once and by and by."""
    body = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(256)) * 128
    answer = upload(name, body)
    assert (answer.status, json.loads(answer.body)["sha256"]) == (201, hashlib.sha256(body).hexdigest())
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        seen = httpbin(
            name, f"/{method.lower()}", method=method, body=b"content", headers={"Content-Type": "text/plain"}
        )
        assert json.loads(seen.body)["data"] == "content"
    assert len(shop(name, "/stream?bytes=3000000").body) == 3000000
    lines = httpbin(name, "/stream/50").text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(range(50))
    drip = httpbin(name, "/drip?duration=1&numbytes=5&code=200&delay=0")
    assert (drip.status, drip.body) == (200, b"*" * 5)


def test_heads_and_statuses(model: str, name: str) -> None:
    """HEAD has no body but its length; statuses arrive as they are, and connections stay in step."""
    answer = httpbin(name, "/get", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 100
    assert [httpbin(name, f"/status/{status}").status for status in (204, 304, 404, 418, 500, 503)] == [
        204,
        304,
        404,
        418,
        500,
        503,
    ]
    assert shop(name, "/redirect").headers["location"] == "http://shop.example.com/"
    assert httpbin(name, "/redirect-to?url=%2Fget").headers["location"] == "/get"


def test_requests_at_the_same_time(model: str, name: str) -> None:
    """Four that take a second each."""
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _number: shop(name, "/slow?seconds=1"), range(4)))
    assert [answer.status for answer in answers] == [200] * 4
    assert time.monotonic() - began < AT_ONCE[model]


def test_a_restart_turns_nobody_away(model: str) -> None:
    """Whoever comes meanwhile waits, also with what must not be asked for twice; afterwards a crash does the same."""
    hosts = {name: host_named(name) for name in ADDRESSES}
    units = {name: f"shop@{RELEASES[model][name]}" for name in ADDRESSES}
    with Load([(address, 80) for address in ADDRESSES.values()], NAMES["shop"], rate=40) as load:
        time.sleep(1)
        for name, host in hosts.items():
            process = host.check_output("systemctl show --property MainPID %s", units[name])
            host.check_output("systemctl restart %s", units[name])
            assert host.check_output("systemctl show --property MainPID %s", units[name]) != process
        time.sleep(2)
    assert not load.result.failures, load.result.explain()
    # A request in flight dies with its process, so that there is none.
    for name, host in hosts.items():
        host.check_output(DEATH, units[name])
        assert upload(name, b"x").status == 201
        assert host.check_output("systemctl show --property NRestarts --value %s", units[name]) == "1"


def tour(stops: list[str]) -> Iterator[str]:
    """Yield stops so that each is followed by each other one exactly once, from the first one on.

    An Eulerian circuit of the complete directed graph, by Hierholzer's algorithm.
    """
    left = {stop: [other for other in stops if other != stop] for stop in stops}
    path, circuit = [stops[0]], []
    while path:
        if left[path[-1]]:
            path.append(left[path[-1]].pop())
        else:
            circuit.append(path.pop())
    yield from reversed(circuit)


def test_flips_between_every_two(tmp_path: Path) -> None:
    """Clients lose nothing, and every flip is one to the release that it was meant to be."""
    assert set(RELEASES) == set(MODELS), "a model was not deployed"
    stops = list(tour(list(MODELS)))
    assert len(set(itertools.pairwise(stops))) == len(MODELS) * (len(MODELS) - 1) == 56
    variables = tmp_path / "tour.json"
    variables.write_text(json.dumps({"tour": stops, "releases": RELEASES}))
    scenario = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
    load = Load([(address, 80) for address in ADDRESSES.values()], NAMES["shop"], rate=30)
    with load:
        done = run_playbook(str(scenario / "flips.yml"), "--extra-vars", f"@{variables}")
        time.sleep(1)
    assert done.returncode == 0, done.stdout
    assert not load.result.failures, load.result.explain()
    served = set(load.result.releases)
    assert served == {release for found in RELEASES.values() for release in found.values()}
