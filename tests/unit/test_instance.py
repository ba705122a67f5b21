"""Gates, units and what an operator gets to read."""

import http.server
import socketserver
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from ansible_collections.wsgi.fleet.plugins.module_utils import _instance as core
from ansible_collections.wsgi.fleet.plugins.module_utils._release import Layout, ReleaseError


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        seen = self.server.seen  # type: ignore[attr-defined]
        seen.append((self.path, self.headers["Host"]))
        body = b"state: healthy"
        self.send_response(int(self.path.rpartition("/")[2] or 200))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_arguments: object) -> None:
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    seen: list[tuple[str, str]]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout("shop", tmp_path / "srv", units=tmp_path / "units", run=tmp_path / "run")


@pytest.fixture
def server(layout: Layout) -> Iterator[Server]:
    path = layout.socket("a" * 12)
    path.parent.mkdir(parents=True)
    with Server(str(path), Handler) as instance:
        instance.seen = []
        threading.Thread(target=instance.serve_forever, args=(0.01,), daemon=True).start()
        yield instance
        instance.shutdown()


class FakeSystemd(core.Systemd):
    def __init__(self, *states: core.UnitState) -> None:
        self.states = list(states)

    def state(self, unit: str) -> core.UnitState:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


RUNNING = core.UnitState("active", "running", "success", 0)


@pytest.mark.parametrize(
    ("status", "code", "accepted"),
    [
        (["200-399"], 200, True),
        (["200-399"], 399, True),
        (["200-399"], 400, False),
        (["200"], 204, False),
        (["200", "401"], 401, True),
        ([200], 200, True),
    ],
)
def test_status_codes_and_ranges(status: list[str], code: int, accepted: bool) -> None:
    assert core.Gate(status=status).accepts(code) is accepted


def test_an_instance_passes_with_path_and_host(server: Server, layout: Layout) -> None:
    gate = core.Gate(path="/health", host="shop.example.com", status=["200"], body="healthy", deadline=5)
    server.RequestHandlerClass = type("H", (Handler,), {})
    answer = core.pass_gate(layout, "a" * 12, core.Gate(**{**vars(gate), "path": "/200"}), FakeSystemd(RUNNING))
    assert answer.status == 200
    assert server.seen == [("/200", "shop.example.com")]


def test_a_wrong_status_fails_at_the_deadline_with_the_last_answer(server: Server, layout: Layout) -> None:
    gate = core.Gate(path="/503", deadline=0.3, interval=0.05)
    with pytest.raises(core.GateFailure, match=r"GET /503 did not answer with status 200-399 within 0.3 s") as failure:
        core.pass_gate(layout, "a" * 12, gate, FakeSystemd(RUNNING))
    assert str(failure.value.answer) == "HTTP 503 Service Unavailable: state: healthy"
    assert len(server.seen) > 1


def test_a_body_that_does_not_match_fails(server: Server, layout: Layout) -> None:
    gate = core.Gate(path="/200", body="^ready$", deadline=0.2)
    with pytest.raises(core.GateFailure, match="body that matches"):
        core.pass_gate(layout, "a" * 12, gate, FakeSystemd(RUNNING))


@pytest.mark.parametrize(
    "state",
    [
        core.UnitState("failed", "failed", "exit-code", 0),
        core.UnitState("activating", "auto-restart", "exit-code", 0),
        core.UnitState("active", "running", "success", 1),
    ],
)
def test_an_instance_that_dies_fails_at_once(layout: Layout, state: core.UnitState) -> None:
    naps: list[float] = []
    with pytest.raises(core.GateFailure, match="died while it started"):
        core.pass_gate(layout, "a" * 12, core.Gate(deadline=60), FakeSystemd(state), sleep=naps.append)
    assert naps == []


def test_no_socket_is_said_in_words(layout: Layout) -> None:
    answer = core.ask(layout.socket("a" * 12), core.Gate(), 1)
    assert answer.status is None
    assert "nothing listens" in str(answer)


def test_unit_states_are_read_from_systemctl() -> None:
    state = core.parse_unit_state("Result=success\nNRestarts=2\nActiveState=active\nSubState=running\n")
    assert state == core.UnitState("active", "running", "success", 2)
    assert state.broken
    assert core.parse_unit_state("").active == "unknown"


def test_secrets_are_found_inside_urls_and_json_and_masked_longest_first() -> None:
    environment = {
        "DSN": "postgres://shop:hunter22@db/shop",
        "OPTIONS": '{"password": "deepsecret", "port": 1}',
        "KEY": "hunter22-and-more",
        "NAME": "shop",
        "FLAG": "1",
    }
    secrets = core.secrets_of(environment, public="name: shop")
    assert {"hunter22", "deepsecret", "hunter22-and-more"} <= secrets
    assert "shop" not in secrets
    assert "1" not in secrets
    text = core.mask("login hunter22-and-more failed, hunter22, deepsecret for shop 1", secrets)
    assert text == "login ******** failed, ********, ******** for shop 1"


def test_units_are_installed_for_boot_and_removed_without_a_trace(layout: Layout) -> None:
    units = {"worker-1.service": "[Service]\n", "cleanup.timer": "[Timer]\n"}
    assert core.install_units(layout, "a" * 12, "[Unit]\n", units)
    assert not core.install_units(layout, "a" * 12, "[Unit]\n", units)
    assert core.install_units(layout, "a" * 12, "[Unit]\nAfter=x\n", units)
    assert core.install_units(layout, "a" * 12, "[Unit]\nAfter=x\n", {**units, "cleanup.timer": "[Timer]\n\n"})
    assert layout.wanted("a" * 12).resolve() == layout.unit("a" * 12)
    # A process starts at boot only once it was started here.
    assert sorted(path.name for path in layout.units.glob("*.wants/*")) == ["shop@aaaaaaaaaaaa.service"]
    assert core.enable(layout, "shop.cleanup@aaaaaaaaaaaa.timer")
    assert not core.enable(layout, "shop.cleanup@aaaaaaaaaaaa.timer")
    core.install_units(layout, "b" * 12, "[Unit]\n", {})
    assert core.remove_units(layout, "a" * 12)
    assert not core.remove_units(layout, "a" * 12)
    assert (
        sorted(path.name for path in layout.units.rglob("*") if not path.is_dir()) == ["shop@bbbbbbbbbbbb.service"] * 2
    )
    assert not core.disable(layout, "shop.cleanup@aaaaaaaaaaaa.timer")
    assert core.disable(layout, "shop@bbbbbbbbbbbb.service")


MANIFEST = {"processes": {"worker-1.service": "all", "job.service": "", "job.timer": "one"}}
WORKER, JOB, TIMER = (f"shop.{name}" for name in ("worker-1@r.service", "job@r.service", "job@r.timer"))


@pytest.mark.parametrize(
    ("manifest", "primary", "here", "elsewhere"),
    [
        (MANIFEST, True, (WORKER, TIMER), (JOB,)),
        (MANIFEST, False, (WORKER,), (JOB, TIMER)),
        ({}, True, (), ()),
        ({"processes": None}, True, (), ()),
    ],
)
def test_a_manifest_tells_what_runs_on_this_host(
    layout: Layout, manifest: dict[str, object], primary: bool, here: tuple[str, ...], elsewhere: tuple[str, ...]
) -> None:
    assert core.processes_of(layout, "r", manifest, primary) == core.Processes(here, elsewhere)


class Processes(FakeSystemd):
    """Runs what it starts, but for what is to break."""

    def __init__(self, running: set[str], breaks: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.running = set(running)
        self.breaks = breaks
        self.calls: list[str] = []

    def state(self, unit: str) -> core.UnitState:
        if unit in self.running:
            return core.UnitState("failed", "failed", "exit-code", 0) if unit in self.breaks else RUNNING
        return core.UnitState("inactive", "dead", "success", 0)

    def start_and_wait(self, *units: str) -> None:
        self.calls += [f"start {unit}" for unit in units]
        self.running |= set(units)

    def stop(self, *units: str) -> None:
        self.calls += [f"stop {unit}" for unit in units]
        self.running -= set(units)

    def discard(self, *units: str) -> None:
        self.stop(*units)

    def journal(self, unit: str, since: float, lines: int = 40) -> str:
        return f"journal of {unit}"


@pytest.mark.parametrize(
    ("here", "elsewhere", "running", "calls"),
    [
        ((WORKER, TIMER), (JOB,), set(), [f"start {WORKER}", f"start {TIMER}"]),
        ((WORKER, TIMER), (JOB,), {WORKER, TIMER}, []),
        # What its timer has started goes on.
        ((WORKER, TIMER), (JOB,), {WORKER, TIMER, JOB}, []),
        ((WORKER,), (JOB, TIMER), {WORKER, TIMER, JOB}, [f"stop {JOB}", f"stop {TIMER}"]),
    ],
)
def test_processes_run_here_or_elsewhere(
    layout: Layout, here: tuple[str, ...], elsewhere: tuple[str, ...], running: set[str], calls: list[str]
) -> None:
    systemd = Processes(running)
    naps: list[float] = []
    core.run_processes(layout, core.Processes(here, elsewhere), systemd, 1.5, sleep=naps.append)
    assert systemd.calls == calls
    assert naps == ([1.5] if any(call.startswith("start") for call in calls) else [])
    assert {path.name for path in layout.units.glob("*.wants/*")} == set(here)
    assert not core.run_processes(layout, core.Processes(here, elsewhere), systemd, 1.5, sleep=naps.append)


def test_a_process_that_does_not_stay_up_is_told_with_its_journal(layout: Layout) -> None:
    systemd = Processes(set(), {WORKER})
    with pytest.raises(ReleaseError) as failure:
        core.run_processes(layout, core.Processes((WORKER, TIMER)), systemd, 0)
    assert str(failure.value) == (
        "app_processes: what was started did not stay up. Its journal:\n"
        "shop.worker-1@r.service:\njournal of shop.worker-1@r.service"
    )
    assert not layout.units.exists()


def test_warm_up_asks_each_address_as_often_as_wanted(server: Server, layout: Layout) -> None:
    gate = core.Gate(path="/200", host="shop.example.com", warmup=["/a/404", "/b/200"], warmup_requests=2, deadline=5)
    core.pass_gate(layout, "a" * 12, gate, FakeSystemd(RUNNING))
    assert [path for path, _host in server.seen] == ["/200", "/a/404", "/a/404", "/b/200", "/b/200"]
    assert {host for _path, host in server.seen} == {"shop.example.com"}


def test_an_error_at_warm_up_fails_the_gate(server: Server, layout: Layout) -> None:
    gate = core.Gate(path="/200", warmup=["/a/500"], deadline=5)
    with pytest.raises(core.GateFailure, match="app_warmup_paths: GET /a/500 was not answered well") as failure:
        core.pass_gate(layout, "a" * 12, gate, FakeSystemd(RUNNING))
    assert failure.value.answer.status == 500


@pytest.mark.parametrize(
    ("live", "asked", "passes"),
    [
        (core.Gate(path="/200"), [], True),
        (core.Gate(path="/old/204"), ["/old/204"], True),
        (core.Gate(path="/old/404"), ["/old/404"], False),
        (core.Gate(path="/200", host="old.example.com"), ["/200"], True),
        (core.Gate(path="/200", status=["201"]), ["/200"], False),
    ],
)
def test_a_release_answers_what_load_balancers_still_ask_for(
    server: Server, layout: Layout, live: core.Gate, asked: list[str], passes: bool
) -> None:
    message = f"load balancers still ask for GET {live.path} with the Host {live.host}"
    with nullcontext() if passes else pytest.raises(core.GateFailure, match=message):
        core.keep_answering(layout, "a" * 12, core.Gate(path="/200"), live)
    assert [path for path, _host in server.seen] == asked


def test_gate_options_that_are_not_set_keep_their_defaults() -> None:
    assert core.gate_from({"path": "/up", "body": None, "deadline": 5.0}) == core.Gate(path="/up", deadline=5.0)
