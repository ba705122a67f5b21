"""Settings of Gunicorn: what cannot work together, and what a build needs for them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.wsgi.fleet.plugins.filter import gunicorn_worker
from ansible_collections.wsgi.fleet.plugins.module_utils import _gunicorn as core


def check(**given: Any) -> list[str]:
    return [f"{name}: {text}" for name, text in core.problems({f"gunicorn_{name}": given[name] for name in given})]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"worker_class": "sync", "threads": 1, "worker_connections": 0, "keepalive": 0, "request_timeout": 0},
        {"worker_class": "sync", "timeout": 0, "max_requests": 50000, "max_requests_jitter": 5000, "preload": True},
        {"worker_class": "gthread", "threads": 32, "worker_connections": 33, "preload": True, "access_log": True},
        {"worker_class": "gevent", "threads": 1, "worker_connections": 1, "keepalive": 90, "request_timeout": 600},
        {"worker_class": "eventlet", "preload": True, "keepalive": 0},
        {"worker_class": "tornado", "preload": True, "max_requests": 1000, "access_log": False},
        {"workers": 16, "threads": "4", "worker_connections": "1000"},
        {"settings": {"limit_request_line": 8190, "post_fork": "shop.hooks.post_fork", "raw_env": ["A=1"]}},
        # What is of another type is told by the specification.
        {"worker_class": "waitress", "timeout": "long", "settings": ["timeout"]},
    ],
)
def test_settings_that_can_work(given: dict[str, Any]) -> None:
    assert check(**given) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"workers": 0}, "gunicorn_workers: '0' is not a number of processes: write a number from 1 on, or auto for"),
        ({"workers": "2\n"}, r"gunicorn_workers: '2\n' is not a number of processes"),
        ({"threads": 0}, "gunicorn_threads: 0 is too low: write a number from 1 on"),
        ({"threads": "many"}, "gunicorn_threads: 'many' is not a number of threads: write a number from 1 on, or auto"),
        ({"graceful_timeout": 0}, "gunicorn_graceful_timeout: 0 is too low: write a number from 1 on"),
        ({"timeout": -1}, "gunicorn_timeout: -1 is too low: write a number from 0 on"),
        ({"max_requests": "-5"}, "gunicorn_max_requests: -5 is too low"),
        (
            {"worker_class": "sync", "threads": 4},
            "gunicorn_threads: 4 has no effect with gunicorn_worker_class: 'sync': use gthread, or take "
            "gunicorn_threads out",
        ),
        ({"worker_class": "gevent", "threads": 2}, "gunicorn_threads: 2 has no effect with gunicorn_worker_class"),
        (
            {"worker_class": "sync", "worker_connections": 100},
            "gunicorn_worker_connections: 100 has no effect with gunicorn_worker_class: 'sync', which has one request "
            "at a time: use one of gthread, gevent, or take it out",
        ),
        (
            {"worker_class": "sync", "keepalive": 5},
            "gunicorn_keepalive: 5 has no effect with gunicorn_worker_class: 'sync', which closes each connection",
        ),
        (
            {"worker_class": "tornado", "keepalive": 5},
            "gunicorn_keepalive: 5 has no effect with gunicorn_worker_class: 'tornado', which leaves that to the web",
        ),
        (
            {"worker_class": "tornado", "request_timeout": 60},
            "gunicorn_request_timeout: 60 has no effect with gunicorn_worker_class: 'tornado', whose requests "
            "gunicorn_timeout limits: set that, or take it out",
        ),
        (
            {"worker_class": "tornado", "access_log": "yes"},
            "gunicorn_access_log: true has no effect with gunicorn_worker_class: 'tornado': take it out",
        ),
        ({"worker_class": "gevent", "preload": True}, "gunicorn_preload: true loads the application before gevent can"),
        ({"worker_class": "gevent", "worker_connections": 0}, "gunicorn_worker_connections: 0 lets nobody in"),
        (
            {"threads": 8, "worker_connections": 8},
            "gunicorn_worker_connections: 8 leaves no connection to be kept beside gunicorn_threads: 8: write a number",
        ),
        (
            {"max_requests_jitter": 50},
            "gunicorn_max_requests_jitter: 50 has no effect without gunicorn_max_requests: set that too, or take it",
        ),
        (
            {"settings": {"umask": 0, "bind": "0.0.0.0:80", "limit_request_line": 1}},
            "gunicorn_settings: bind, umask follows from how an instance is wired and cannot be set: take it out",
        ),
        ({"settings": {"wsgi_app": "other:app"}}, "gunicorn_settings: wsgi_app follows from how"),
        ({"settings": {"certfile": "/x", "keyfile": "/y"}}, "gunicorn_settings: certfile, keyfile follows from how"),
        ({"settings": {"proxy_protocol": True}}, "gunicorn_settings: proxy_protocol follows from how"),
        ({"settings": {"timeout": 5}}, "gunicorn_settings: timeout has a variable of its own: write gunicorn_timeout"),
        ({"settings": {"worker_class": "asgi"}}, "gunicorn_settings: worker_class has a variable of its own: write"),
        ({"settings": {"preload_app": True}}, "gunicorn_settings: preload_app has a variable of its own: write "
         "gunicorn_preload instead"),
        (
            {"settings": {"pre_request": "shop.hooks.pre_request"}},
            "gunicorn_settings: pre_request is a function that the role gives Gunicorn itself: take it out, and wrap",
        ),
        (
            {"settings": {"post_fork": "def post_fork(server, worker): pass"}},
            "gunicorn_settings: post_fork has to be a function, which this file cannot hold: write where it stands in "
            "the application, such as shop.hooks.post_fork",
        ),
        ({"settings": {"when_ready": None}}, "gunicorn_settings: when_ready has to be a function"),
        (
            {"settings": {"reload": True, "reload_extra_files": ["x"]}, "preload": True},
            "gunicorn_settings: reload, reload_extra_files is for development, as files of a release never change",
        ),
        (
            {"settings": {"--limit-request-line": 100}},
            "gunicorn_settings: '--limit-request-line' is not the name of a setting: write it as in Gunicorn's "
            "configuration file, such as limit_request_line",
        ),
        ({"settings": {"import os": 1}}, "gunicorn_settings: 'import os' is not the name of a setting"),
        ({"settings": {"a\n": 1}}, r"gunicorn_settings: 'a\n' is not the name of a setting"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(given: dict[str, Any], said: str) -> None:
    (problem,) = check(**given)
    assert problem.startswith(said)


def test_all_problems_are_told_at_once() -> None:
    given = {"gunicorn_worker_class": "sync", "gunicorn_threads": 4, "gunicorn_settings": {"bind": "x", "timeout": 1}}
    assert gunicorn_worker.gunicorn_worker(given)["problems"] == [
        "gunicorn_threads: 4 has no effect with gunicorn_worker_class: 'sync': use gthread, or take gunicorn_threads "
        "out.",
        "gunicorn_settings: bind follows from how an instance is wired and cannot be set: take it out.",
        "gunicorn_settings: timeout has a variable of its own: write gunicorn_timeout instead.",
    ]


@pytest.mark.parametrize(
    ("name", "requirements"),
    [
        ("sync", []),
        ("gthread", []),
        ("gevent", ["gevent==26.9.0", "packaging==26.4"]),
        ("tornado", ["tornado==6.5.10"]),
        ("eventlet", ["eventlet==0.41.3"]),
    ],
)
def test_what_a_worker_class_needs(name: str, requirements: list[str]) -> None:
    assert gunicorn_worker.gunicorn_worker({"gunicorn_worker_class": name})["requirements"] == requirements


@pytest.mark.parametrize(
    ("given", "conditions"),
    [
        ({}, []),
        ({"gunicorn_worker_class": "sync"}, []),
        ({"gunicorn_worker_class": "tornado"}, [("gunicorn", "extra", "tornado")]),
        (
            {"gunicorn_worker_class": "eventlet"},
            [("gunicorn", "below", "26"), ("gunicorn", "extra", "eventlet")],
        ),
        (
            {"gunicorn_settings": {"sendfile": False, "backlog": 64}},
            [("gunicorn", "names", ["backlog", "sendfile"])],
        ),
    ],
)
def test_what_a_build_must_fulfil(given: dict[str, Any], conditions: list[tuple[str, str, Any]]) -> None:
    assert [
        (entry["distribution"], kind, entry[kind])
        for entry in gunicorn_worker.gunicorn_worker(given)["conditions"]
        for kind in ("below", "extra", "names")
        if kind in entry
    ] == conditions


@pytest.mark.parametrize("given", [None, [], "sync"])
def test_settings_are_a_dictionary(given: object) -> None:
    with pytest.raises(AnsibleFilterError, match="gunicorn_worker: the settings must be a dictionary"):
        gunicorn_worker.gunicorn_worker(given)
