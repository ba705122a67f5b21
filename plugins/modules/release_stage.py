#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module release_stage: put a release on a host and start its instance, with no traffic."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_stage
short_description: Put a release on a host and start its instance, without traffic
version_added: 0.1.0
description:
  - Makes a release of a build and its settings, names it by a keyed digest of both, starts its
    instance on a socket of its own and waits until the instance passes its gate.
  - Traffic is not touched. M(wsgi.fleet.release_activate) switches it.
  - When the instance does not pass, it is stopped and a newly made release is removed again. The
    message holds the last answer and the end of the instance's journal, with the values of
    O(environment) masked.
  - The same build and settings give the same release. When it is current and its instance runs,
    nothing happens.
  - With O(release), one that is on the host already is staged again as it is, with its own build,
    settings and gate, for a rollback.
options:
  name:
    description: Name of the application, which is also the prefix of its units.
    type: str
    required: true
  directory:
    description: Directory of the application on the host.
    type: path
    required: true
  build:
    description:
      - Identifier of a complete build below C(builds/) of O(directory). Required unless O(release)
        is set.
    type: str
  release:
    description: A release that is on the host, to be staged again.
    type: str
  deploy:
    description:
      - The deploy that this is a step of. It must have the host's lock, see
        M(wsgi.fleet.release_begin).
    type: str
  unit:
    description:
      - Text of the systemd unit of an instance. C(%i) in it stands for the release. Required
        unless O(release) is set.
    type: str
  units:
    description:
      - Units of further processes of the release by name and kind, such as C(worker-1.service), as
        the filter P(wsgi.fleet.process_units#filter) makes them. M(wsgi.fleet.release_activate) starts them.
    type: dict
    default: {}
  requires:
    description:
      - What the build must fulfil for these settings. When it does not, nothing is written or started,
        and the message is that of the entries that are not fulfilled.
      - An entry has a C(distribution) that must be installed in the build and a message, C(otherwise).
        It may have one of C(at_least) and C(below) with a version; C(extra), whose packages must be there
        as the distribution itself asks for them; or C(file), C(pattern) and C(names), names that the
        pattern must find in that file.
      - Fields of the message are C({version}) of the distribution, C({needed}) and C({found}) for an extra,
        C({name}) and C({alike}) for a name.
    type: list
    elements: dict
    default: []
  files:
    description: Further files of the release by name, such as the app server's configuration.
    type: dict
    default: {}
  environment:
    description:
      - Environment variables of the instance, as the text of a JSON object of strings. They are
        written to C(env), which only root can read, and none of the values is ever shown.
      - It is one text and not a dictionary, because Ansible hides each value of a secret
        dictionary wherever it occurs, and a variable set to C(1) would make every answer
        unreadable.
    type: str
    default: '{}'
  shared:
    description:
      - Directories below C(shared/) of O(directory) that outlive releases. They are made for
        O(user) when they are missing, and never removed.
    type: list
    elements: str
    default: []
  trial:
    description:
      - Whether the release is only made to be tried. It has a name of its own, so that it is never the same as
        one to deploy, and its instance is stopped again once it has passed its gate.
        M(wsgi.fleet.release_drive) runs it, and M(wsgi.fleet.release_discard) removes it.
    type: bool
    default: false
  primary:
    description: Whether processes that run on one host only run on this one.
    type: bool
    default: false
  key:
    description:
      - The secret with which releases are named. With the same one on every host, the same release
        has the same name on all hosts of a platform.
      - Without it a host makes one of its own.
    type: str
  manifest:
    description: What C(release.json) says besides, such as version and source. No secrets.
    type: dict
    default: {}
  module:
    description:
      - The WSGI callable as C(package.module:attribute). Only used to explain why an instance
        did not come up.
    type: str
  user:
    description: The account that the instance runs as. Required unless O(release) is set.
    type: str
  gate:
    description:
      - What the instance must answer before it may get traffic.
      - With O(release), path, host, status and body are those of that release.
    type: dict
    default: {}
    suboptions:
      path:
        description: Request target of the health check.
        type: str
        default: /
      host:
        description: Value of the C(Host) header.
        type: str
        default: localhost
      status:
        description: Accepted status codes, single ones or ranges.
        type: list
        elements: str
        default: [200-399]
      body:
        description: Regular expression that the answer's body must contain.
        type: str
      deadline:
        description: Seconds until the instance must have passed.
        type: float
        default: 60
      interval:
        description: Seconds between two tries.
        type: float
        default: 0.25
      warmup:
        description: Request targets to ask for once the instance has passed.
        type: list
        elements: str
        default: []
      warmup_requests:
        description: How often each of them is asked for.
        type: int
        default: 1
      keep_answering:
        description:
          - Whether the instance must also answer what the current release is asked, since load
            balancers go on asking for that until they are told otherwise.
        type: bool
        default: false
attributes:
  check_mode:
    support: full
    description: Nothing is written or started; the release is named.
  diff_mode:
    support: full
    description: Environment variables are shown by name only.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Stage the release
  wsgi.fleet.release_stage:
    name: shop
    directory: /srv/shop
    build: 3f9c1e0b7a2d
    user: shop
    unit: "{{ lookup('ansible.builtin.template', 'app.service.j2') }}"
    environment: "{{ {'FLASK_SECRET_KEY': vault_secret_key} | to_json }}"
    gate:
      path: /health
      host: shop.example.com
"""

RETURN = r"""
release:
  description: Identifier of the release.
  type: str
  returned: success, and when an instance did not pass its gate
  sample: 8a41d0c29be7
created:
  description: Whether the release was not on the host before.
  type: bool
  returned: success
previous:
  description: The release that was current, or null.
  type: str
  returned: success
live:
  description: Whether the release is the current one already.
  type: bool
  returned: success
settled:
  description: Whether it is, and its instance and all processes that are to run on this host do.
  type: bool
  returned: success
deploy:
  description: The deploy that brought the current release into service, if that is the staged one; else empty.
  type: str
  returned: success
answer:
  description: The answer that passed the gate.
  type: str
  returned: when an instance was started
"""

import dataclasses
import json
import os
import pwd
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import (
    Gate,
    GateFailure,
    Systemd,
    diagnose_import,
    gate_from,
    install_units,
    keep_answering,
    mask,
    pass_gate,
    processes_of,
    remove_units,
    secrets_of,
    stop_others,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._release import (
    BUILD_MANIFEST,
    Layout,
    ReleaseError,
    State,
    create_release,
    describe_environment,
    environment_of,
    manifest_of,
    parse_environment_file,
    read_key,
    read_state,
    release_id,
    remove_tree,
    write_file,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._requires import unmet
from ansible_collections.wsgi.fleet.plugins.module_utils._transaction import Lock, step, write_lock

GATE_OPTIONS: dict[str, Any] = {
    "path": {"type": "str", "default": "/"},
    "host": {"type": "str", "default": "localhost"},
    "status": {"type": "list", "elements": "str", "default": ["200-399"]},
    "body": {"type": "str"},
    "deadline": {"type": "float", "default": 60},
    "interval": {"type": "float", "default": 0.25},
    "warmup": {"type": "list", "elements": "str", "default": []},
    "warmup_requests": {"type": "int", "default": 1},
    "keep_answering": {"type": "bool", "default": False},
}
#: The part of the gate that belongs to a release: load balancers ask for the same.
GATE_OF_RELEASE = ("path", "host", "status", "body")


def read_environment(text: str) -> dict[str, str]:
    """Read the option O(environment)."""
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise ReleaseError("environment is not the text of a JSON object of strings")
    for name, value in data.items():
        if not isinstance(value, str):
            raise ReleaseError(
                f"app_env: the value of {name} is not text but {type(value).__name__}: environment "
                "variables are text, put it in quotes"
            )
    return data


def make_shared(layout: Layout, names: list[str], user: str) -> None:
    """Make the directories that outlive releases; existing ones are left as they are."""
    try:
        account = pwd.getpwnam(user)
    except KeyError as error:
        raise ReleaseError(f"user: there is no account '{user}' on this host") from error
    shared = layout.root / "shared"
    shared.mkdir(parents=True, exist_ok=True)
    for name in names:
        directory = shared / name
        if shared not in directory.resolve().parents:
            raise ReleaseError(f"shared: '{name}' lies outside {shared}: write a plain name")
        if not directory.is_dir():
            directory.mkdir(parents=True)
            os.chown(directory, account.pw_uid, account.pw_gid)
            directory.chmod(0o750)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The release to stage.

    :param created: whether it has to be made.
    """

    release: str
    created: bool
    gate: Gate
    environment: dict[str, str]
    module: str | None
    user: str
    public: str


def wanted_new(layout: Layout, state: State, parameters: dict[str, Any], check: bool) -> Wanted:
    """Name the release of a build and its settings."""
    for name, value in parameters["units"].items():
        if not isinstance(value, dict) or not all(isinstance(value.get(part), str) for part in ("text", "hosts")):
            raise ReleaseError(f"units: {name} is not what the filter process_units makes")
    environment = read_environment(parameters["environment"])
    inputs = {
        "build": parameters["build"],
        "environment": environment,
        "files": parameters["files"],
        "gate": {name: parameters["gate"].get(name) for name in GATE_OF_RELEASE},
        "unit": parameters["unit"],
    }
    if parameters["units"]:
        inputs["units"] = parameters["units"]
    if parameters["trial"]:
        inputs["trial"] = True
    key = parameters["key"].encode() if parameters["key"] else read_key(layout, create=not check)
    release = release_id(key, inputs)
    return Wanted(
        release=release,
        created=release not in state.releases,
        gate=gate_from(parameters["gate"]),
        environment=environment,
        module=parameters["module"],
        user=parameters["user"],
        public="\n".join([layout.name, parameters["unit"], *parameters["files"].values()]),
    )


def wanted_again(layout: Layout, state: State, parameters: dict[str, Any]) -> Wanted:
    """Take a release that is on the host as it is."""
    release = parameters["release"]
    if release not in state.releases or not layout.unit(release).is_file():
        raise ReleaseError(f"release {release} is not on this host any more: deploy its version again")
    manifest = manifest_of(layout, release)
    unit = layout.unit(release).read_text()
    return Wanted(
        release=release,
        created=False,
        gate=gate_from({**parameters["gate"], **(manifest.get("gate") or {})}),
        environment=environment_of(layout, release),
        module=manifest.get("module"),
        user=str(manifest.get("user") or layout.name),
        public=f"{layout.name}\n{unit}",
    )


def difference(layout: Layout, current: str | None, wanted: Wanted, parameters: dict[str, Any]) -> list[dict[str, str]]:
    """Compare the current release with the staged one, file by file."""

    def read(release: str | None, name: str) -> str:
        try:
            return (layout.release(release or "-") / name).read_text()
        except FileNotFoundError:
            return ""

    def read_unit(release: str | None) -> str:
        return layout.unit(release).read_text() if release and layout.unit(release).exists() else ""

    def read_process(release: str | None, name: str) -> str:
        path = layout.units / layout.process_unit(release or "-", name)
        return path.read_text() if path.exists() else ""

    old, new = describe_environment(parse_environment_file(read(current, "env")), wanted.environment)
    if parameters["release"]:
        texts = [("unit", read_unit(current), read_unit(wanted.release)), ("environment", old, new)]
    else:
        texts = [("unit", read_unit(current), parameters["unit"]), ("environment", old, new)]
        texts += [(name, read(current, name), text) for name, text in sorted(parameters["files"].items())]
        processes = manifest_of(layout, current).get("processes") or {} if current else {}
        texts += [
            (name, read_process(current, name), (parameters["units"].get(name) or {"text": ""})["text"])
            for name in sorted({*processes, *parameters["units"]})
        ]
    return [
        {
            "before_header": f"{name} of release {current or '(none)'}",
            "after_header": f"{name} of release {wanted.release}",
            "before": before,
            "after": after,
        }
        for name, before, after in texts
        if before != after
    ]


def explain(layout: Layout, wanted: Wanted, failure: GateFailure, journal: str, live: bool) -> str:
    """Compose the message for an instance that did not pass its gate."""
    cause = None
    if failure.answer.status is None and wanted.module:
        cause = diagnose_import(layout, wanted.release, wanted.module, wanted.user, wanted.environment)
    lines = [f"Release {wanted.release} of {layout.name} did not pass its gate: {failure.reason}."]
    if cause:
        lines.append(
            f"app_module: '{wanted.module}' cannot be imported: {cause}. Write it as "
            "'package.module:callable', as seen from the top of the source, and see that "
            "everything it imports is among the dependencies."
        )
    elif failure.answer.status is not None:
        lines.append(
            "If this address is not meant to answer like that, set app_health_path, "
            "app_health_host or app_health_status."
        )
    lines.append(f"Last answer: {failure.answer}")
    lines.append("Journal of the instance:")
    lines.append(journal or "(empty)")
    if not live:
        what = "removed" if wanted.created else "stopped"
        lines.append(f"It got no traffic and was {what}; the release before it goes on.")
    return "\n".join(lines)


def stage(module: AnsibleModule, layout: Layout, systemd: Systemd, lock: Lock | None = None) -> dict[str, Any]:
    """Do the module's work and return its result."""
    parameters = module.params
    state = read_state(layout)
    # In check mode the build may not be there yet.
    requires = parameters.get("requires")
    if requires and (layout.build(parameters["build"]) / BUILD_MANIFEST).is_file():
        messages = unmet(layout.build(parameters["build"]) / "venv", requires)
        if messages:
            raise ReleaseError("\n".join(messages))
    wanted = (
        wanted_again(layout, state, parameters)
        if parameters["release"]
        else wanted_new(layout, state, parameters, module.check_mode)
    )
    release = wanted.release
    running = not wanted.created and systemd.state(layout.unit_name(release)).active == "active"
    result: dict[str, Any] = {
        "release": release,
        "created": wanted.created,
        "previous": state.current,
        "deploy": state.deploys.get(release, "") if release == state.current else "",
        "live": release == state.current,
        "settled": False,
        "changed": not running,
        "diff": difference(layout, state.current, wanted, parameters) if release != state.current else [],
    }
    if running and release == state.current:
        processes = processes_of(layout, release, manifest_of(layout, release), parameters["primary"])
        result["settled"] = all(
            systemd.state(unit).active == "active" and layout.wanted_unit(unit).is_symlink() for unit in processes.here
        ) and not any(layout.wanted_unit(unit).is_symlink() for unit in processes.elsewhere)
    # One that runs and is not current may have been left by a run that was cut short at the gate.
    if module.check_mode or (running and release == state.current):
        return result
    if lock and not parameters["trial"]:
        version = (
            manifest_of(layout, release).get("version")
            if parameters["release"]
            else parameters["manifest"].get("version")
        )
        # Kept from an earlier step: what the deploy has made, it is still to undo.
        created = wanted.created or (lock.created and lock.release == release)
        text = str(version or lock.version)
        staged = dataclasses.replace(lock, release=release, created=created, version=text, interrupted=())
        write_lock(layout, staged)
    if not parameters["release"]:
        make(layout, wanted, parameters, systemd, lock.by if lock else "")
    write_file(layout.permit(release), "", 0o644)
    result["answer"] = gate(module, layout, systemd, wanted, state.current, running)
    if parameters["trial"]:
        stop_others(layout, systemd, [layout.unit_name(release)])
    return result


def make(layout: Layout, wanted: Wanted, parameters: dict[str, Any], systemd: Systemd, by: str) -> None:
    """Lay the release down, and its units."""
    make_shared(layout, parameters["shared"], parameters["user"])
    create_release(
        layout,
        wanted.release,
        parameters["build"],
        parameters["files"],
        wanted.environment,
        {
            "name": layout.name,
            "by": by,
            **parameters["manifest"],
            "gate": {name: parameters["gate"].get(name) for name in GATE_OF_RELEASE},
            "module": parameters["module"],
            "processes": {name: unit["hosts"] for name, unit in parameters["units"].items()},
            "user": parameters["user"],
            **({"trial": True} if parameters["trial"] else {}),
        },
    )
    units = {name: unit["text"] for name, unit in parameters["units"].items()}
    if install_units(layout, wanted.release, parameters["unit"], units):
        systemd.reload()


def gate(
    module: AnsibleModule, layout: Layout, systemd: Systemd, wanted: Wanted, current: str | None, running: bool
) -> str:
    """Start the instance and wait until it passes its gate; return the answer that did."""
    release = wanted.release
    unit = layout.unit_name(release)
    hidden = secrets_of(wanted.environment, wanted.public)
    started = time.time()
    live = release == current
    try:
        if not running:
            systemd.start(unit)
        answer = str(pass_gate(layout, release, wanted.gate, systemd))
        if module.params["gate"].get("keep_answering") and current and not live:
            asked = manifest_of(layout, current).get("gate") or {}
            keep_answering(layout, release, wanted.gate, gate_from({**asked, "body": None}))
        return mask(answer, hidden)
    except ReleaseError as failure:
        journal = systemd.journal(unit, started)
        if isinstance(failure, GateFailure):
            message = explain(layout, wanted, failure, journal, live)
        else:
            message = f"{failure}\n{journal}".strip()
        if not live:
            take_away(layout, systemd, wanted)
        module.fail_json(msg=mask(message, hidden), release=release, created=False, previous=current)
        raise  # Never reached: fail_json does not return.


def take_away(layout: Layout, systemd: Systemd, wanted: Wanted) -> None:
    """Stop an instance that has not passed, and remove its release unless it was there before."""
    systemd.discard(layout.unit_name(wanted.release))
    if wanted.created:
        remove_units(layout, wanted.release)
        systemd.reload()
        remove_tree(layout.release(wanted.release))
    else:
        layout.permit(wanted.release).unlink(missing_ok=True)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "build": {"type": "str"},
            "release": {"type": "str"},
            "deploy": {"type": "str"},
            "trial": {"type": "bool", "default": False},
            "primary": {"type": "bool", "default": False},
            "unit": {"type": "str"},
            "units": {"type": "dict", "default": {}},
            "requires": {"type": "list", "elements": "dict", "default": []},
            "files": {"type": "dict", "default": {}},
            "environment": {"type": "str", "default": "{}", "no_log": True},
            "key": {"type": "str", "no_log": True},
            "manifest": {"type": "dict", "default": {}},
            "module": {"type": "str"},
            "user": {"type": "str"},
            "shared": {"type": "list", "elements": "str", "default": []},
            "gate": {"type": "dict", "default": {}, "options": GATE_OPTIONS},
        },
        mutually_exclusive=[("build", "release"), ("requires", "release")],
        required_one_of=[("build", "release")],
        required_by={"build": ("unit", "user")},
        supports_check_mode=True,
    )
    os.umask(0o022)
    layout = Layout(module.params["name"], Path(module.params["directory"]))
    try:
        if module.check_mode:
            result = stage(module, layout, Systemd())
        else:
            with step(layout, module.params["deploy"]) as lock:
                result = stage(module, layout, Systemd(), lock)
    except (ReleaseError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
