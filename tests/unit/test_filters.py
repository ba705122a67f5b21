"""The filters: what templates get is what was meant, whatever the values hold."""

import ast
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.wsgi.fleet.plugins.filter import (
    app_file,
    app_sizing,
    build_id,
    haproxy_servers,
    host_batches,
    limit_directives,
    process_units,
    python_literal,
    release_history,
    rollback_plan,
    sandbox_directives,
    settled_hosts,
    status_codes,
    tune_candidates,
    tune_report,
    uwsgi_problems,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (app_file, "app_file"),
        (app_sizing, "app_sizing"),
        (build_id, "build_id"),
        (haproxy_servers, "haproxy_servers"),
        (host_batches, "host_batches"),
        (limit_directives, "limit_directives"),
        (process_units, "process_units"),
        (python_literal, "python_literal"),
        (release_history, "release_history"),
        (rollback_plan, "rollback_plan"),
        (sandbox_directives, "sandbox_directives"),
        (settled_hosts, "settled_hosts"),
        (status_codes, "status_codes"),
        (tune_candidates, "tune_candidates"),
        (tune_report, "tune_report"),
        (uwsgi_problems, "uwsgi_problems"),
    ],
)
def test_a_filter_has_the_name_of_its_file(module: Any, name: str) -> None:
    assert list(module.FilterModule().filters()) == [name]


@pytest.mark.parametrize(
    ("value", "source"),
    [
        (None, "None"),
        (True, "True"),
        (False, "False"),
        (0, "0"),
        (-5, "-5"),
        (0.5, "0.5"),
        ("", "''"),
        ("plain", "'plain'"),
        ("it's", '"it\'s"'),
        ("'; import os; '", "\"'; import os; '\""),
        ("a\nimport os", "'a\\nimport os'"),
        ("a\r\\", "'a\\r\\\\'"),
        ('"""', '\'"""\''),
        ("{{ x }}", "'{{ x }}'"),
        ([], "[]"),
        (("a", 1), "['a', 1]"),
        ({}, "{}"),
        ({"a": [True, None], "b'": {"c": "\n"}}, "{'a': [True, None], \"b'\": {'c': '\\n'}}"),
    ],
)
def test_values_as_python_source(value: object, source: str) -> None:
    assert python_literal.python_literal(value) == source


def test_a_text_of_another_type_is_a_text() -> None:
    class Marked(str):
        __slots__ = ()

        def __repr__(self) -> str:
            return "Marked()"

    assert python_literal.python_literal([Marked("a")]) == "['a']"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(PLAIN)
def test_python_reads_back_what_was_written_on_one_line(value: object) -> None:
    source = python_literal.python_literal(value)
    assert len(source.splitlines()) <= 1
    assert ast.literal_eval(source) == value


@pytest.mark.parametrize(
    ("value", "name"),
    [(object(), "object"), ({1}, "set"), ([object()], "object"), (float("inf"), "float"), (float("nan"), "float")],
)
def test_what_is_no_plain_data_has_no_literal(value: object, name: str) -> None:
    with pytest.raises(AnsibleFilterError, match=f"python_literal: {name} is not plain data"):
        python_literal.python_literal(value)


@pytest.mark.parametrize(
    ("entries", "codes"),
    [
        ([], []),
        (["200"], [200]),
        ([200], [200]),
        (["301", "200-204"], [200, 201, 202, 203, 204, 301]),
        (["200-202", "201", "202-203"], [200, 201, 202, 203]),
        (["599-599", "100"], [100, 599]),
    ],
)
def test_status_codes_are_spelled_out(entries: list[object], codes: list[int]) -> None:
    assert status_codes.status_codes(entries) == codes


@pytest.mark.parametrize(
    "entry", ["", "2xx", "99", "600", "399-200", "200-", "200 - 204", "200\n", "200-600", "200;", None, 20.0, "-200"]
)
def test_what_is_no_status_code_is_refused(entry: object) -> None:
    with pytest.raises(
        AnsibleFilterError, match="is no status code: write one such as 200, or a range such as 200-399"
    ):
        status_codes.status_codes(["200", entry])


def test_a_build_is_named_by_everything_in_its_inputs() -> None:
    inputs = {"source": "abc", "platform": {"version": "12", "python": "3.11"}, "server": ["gunicorn"]}
    name = build_id.name_build(inputs)
    assert name == "74e73523923d"
    assert build_id.name_build(dict(reversed(inputs.items()))) == name
    others: list[dict[str, Any]] = [{"source": "abd"}, {"platform": {"version": "12"}}, {"server": []}, {"more": None}]
    assert len({name, *(build_id.name_build({**inputs, **other}) for other in others)}) == 5


@pytest.mark.parametrize("inputs", [{}, None, "abc", ["a"], 5])
def test_a_build_needs_inputs(inputs: object) -> None:
    with pytest.raises(AnsibleFilterError, match="build_id: the inputs must be a dictionary that is not empty"):
        build_id.name_build(inputs)


def test_needs_come_as_they_stand_in_an_inventory() -> None:
    lines = sandbox_directives.sandbox_directives({"write_paths": ("/srv/a", "/srv/b"), "network": True})
    assert "ReadWritePaths=/srv/a /srv/b" in lines
    assert "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6" in lines


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (None, "sandbox_directives: the needs must be a dictionary"),
        (["network"], "sandbox_directives: the needs must be a dictionary"),
        ({"netwrok": True}, "sandbox_directives: 'netwrok' is not something a sandbox can allow"),
        ({"write_paths": "/srv"}, "sandbox_directives: write_paths: '/srv' is not a list"),
        ({"write_paths": ["/srv\nUser=root"]}, "sandbox_directives: write_paths: .* cannot stand in a unit"),
        ({"umask": '0027"'}, "sandbox_directives: umask: .* is not a mask"),
    ],
)
def test_needs_that_no_unit_can_hold_are_refused(needs: object, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        sandbox_directives.sandbox_directives(needs)


#: The first columns, and the one of the status, as HAProxy writes them.
STATISTICS = """\
# pxname,svname,qcur,qmax,scur,smax,slim,status,weight,
http,FRONTEND,,,3,9,20000,OPEN,,
shop,app1,0,0,2,4,,UP 1/2,1,
shop,app2,1,3,4,4,,NOLB,1,
shop,app3,0,0,0,4,,no check,1,
shop,BACKEND,0,0,6,9,2000,UP,2,
"""


def test_servers_of_haproxy() -> None:
    assert haproxy_servers.haproxy_servers(STATISTICS) == [
        {"backend": "shop", "name": "app1", "status": "UP", "sessions": 2},
        {"backend": "shop", "name": "app2", "status": "NOLB", "sessions": 5},
        {"backend": "shop", "name": "app3", "status": "no", "sessions": 0},
    ]
    assert haproxy_servers.haproxy_servers("") == []


@pytest.mark.parametrize(
    "text", ["<html>\n<body>", "# pxname,svname\nshop,app1", "# pxname,svname,qcur,scur,status\na,b"]
)
def test_what_is_not_of_haproxy_is_refused(text: str) -> None:
    with pytest.raises(AnsibleFilterError, match="not the statistics of HAProxy"):
        haproxy_servers.haproxy_servers(text)


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        (1, [["a"], ["b"], ["c"]]),
        ("50%", [["a"], ["b"], ["c"]]),
        ([1, "100%"], [["a"], ["b", "c"]]),
        ("3", [["a", "b", "c"]]),
    ],
)
def test_hosts_are_divided_by_a_size_or_a_list_of_them(sizes: object, batches: list[list[str]]) -> None:
    assert host_batches.host_batches(["a", "b", "c"], sizes) == batches


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="app_batch: 'all' is neither a number of hosts nor a percentage"):
        host_batches.host_batches(["a"], "all")


#: What release_begin returns of a host.
STATE = {
    "current": "r2",
    "releases": [
        {"release": "r2", "deploy": "D2", "activated": "2"},
        {"release": "r1", "deploy": "D1", "activated": "1", "version": "v1"},
    ],
    "lock": {"deploy": "D3", "interrupted": [{"deploy": "D2", "confirmed": False}]},
    "history": [{"deploy": "D2", "outcome": "succeeded", "by": "ada", "origin": "desk"}],
}


def test_filters_look_at_what_hosts_have_told() -> None:
    assert rollback_plan.rollback_plan({"a": STATE}, "v1") == {"a": "r1"}
    assert settled_hosts.settled_hosts({"a": STATE}) == {"a": "D2"}
    lock = {"lock": None}
    assert release_history.release_history({"a": STATE | lock})[1:] == [
        "D2                     ada@desk         succeeded <- live"
    ]


def test_what_cannot_be_gone_back_to_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="app_rollback_to: 'v9' is none of what was in service"):
        rollback_plan.rollback_plan({"a": STATE}, "v9")


INSTANCE = {"name": "shop", "directory": "/srv/shop", "user": "shop", "group": "shop"}


def test_processes_become_units_with_their_hosts() -> None:
    entries = [
        {"name": "worker", "command": "work", "count": 2},
        {"name": "job", "command": "work", "schedule": "daily"},
    ]
    units = process_units.process_units(entries, INSTANCE)
    assert {name: unit["hosts"] for name, unit in units.items()} == {
        "worker-1.service": "all", "worker-2.service": "all", "job.service": "", "job.timer": "one",
    }  # fmt: skip
    assert all(set(unit) == {"text", "hosts"} for unit in units.values())


def test_a_process_that_cannot_run_is_refused() -> None:
    with pytest.raises(
        AnsibleFilterError, match=r"^app_processes: worker: count '0' is not a whole number: write one from 1 to 64"
    ):
        process_units.process_units([{"name": "worker", "command": "work", "count": 0}], INSTANCE)


def test_candidates_are_named_with_the_present_settings_first() -> None:
    assert tune_candidates.tune_candidates(
        [{"gunicorn_workers": 3, "gunicorn_worker_class": "sync"}], "gunicorn", 4
    ) == [
        {"label": "as it is", "settings": {}},
        {"label": "workers 3, worker_class sync", "settings": {"gunicorn_workers": 3, "gunicorn_worker_class": "sync"}},
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gunicorn_thread": 4}, "tune_candidates: there is no variable 'gunicorn_thread'"),
        ({"app_env": {}}, "tune_candidates: there is no variable 'app_env'"),
        (
            {"uwsgi_threads": 4},
            "tune_candidates: 'uwsgi_threads' is no setting of gunicorn: write variables of that role, or",
        ),
    ],
)
def test_candidates_with_unknown_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(AnsibleFilterError) as failure:
        tune_candidates.tune_candidates([settings], "gunicorn", 4)
    assert str(failure.value).startswith(message)


def test_a_report_in_which_all_fails_is_an_error() -> None:
    run = {"release": "a", "rate": 0.0, "p50_ms": None, "p99_ms": None, "cpu_ms": None, "memory_mb": 1, "failed": 3}
    with pytest.raises(AnsibleFilterError, match="with every one of the candidates requests failed"):
        tune_report.tune_report([{"label": "as it is", "settings": {}, "release": "a"}], [[run]])
