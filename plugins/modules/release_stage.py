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
    description: Identifier of a complete build below C(builds/) of O(directory).
    type: str
    required: true
  unit:
    description:
      - Text of the systemd unit of an instance. C(%i) in it stands for the release.
    type: str
    required: true
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
    description: The account that the instance runs as.
    type: str
    required: true
  gate:
    description: What the instance must answer before it may get traffic.
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
  returned: always
  sample: 8a41d0c29be7
created:
  description: Whether the release was not on the host before.
  type: bool
  returned: success
previous:
  description: The release that was current, or null.
  type: str
  returned: success
answer:
  description: The answer that passed the gate.
  type: str
  returned: when an instance was started
"""

import json
import os
import pwd
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import (
    GateFailure,
    Systemd,
    diagnose_import,
    gate_from,
    install_unit,
    mask,
    pass_gate,
    remove_unit,
    secrets_of,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._release import (
    Layout,
    ReleaseError,
    create_release,
    describe_environment,
    exclusive,
    parse_environment_file,
    read_key,
    read_state,
    release_id,
    remove_tree,
    write_file,
)

GATE_OPTIONS: dict[str, Any] = {
    "path": {"type": "str", "default": "/"},
    "host": {"type": "str", "default": "localhost"},
    "status": {"type": "list", "elements": "str", "default": ["200-399"]},
    "body": {"type": "str"},
    "deadline": {"type": "float", "default": 60},
    "interval": {"type": "float", "default": 0.25},
}


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


def difference(
    layout: Layout,
    current: str | None,
    release: str,
    parameters: dict[str, Any],
    environment: dict[str, str],
) -> list[dict[str, str]]:
    """Compare the current release with the staged one, file by file."""

    def read(name: str) -> str:
        try:
            return (layout.release(current or "-") / name).read_text()
        except FileNotFoundError:
            return ""

    old_unit = layout.unit(current).read_text() if current and layout.unit(current).exists() else ""
    old, new = describe_environment(parse_environment_file(read("env")), environment)
    texts = [("unit", old_unit, parameters["unit"]), ("environment", old, new)]
    texts += [(name, read(name), text) for name, text in sorted(parameters["files"].items())]
    return [
        {
            "before_header": f"{name} of release {current or '(none)'}",
            "after_header": f"{name} of release {release}",
            "before": before,
            "after": after,
        }
        for name, before, after in texts
        if before != after
    ]


def explain(
    layout: Layout,
    release: str,
    parameters: dict[str, Any],
    environment: dict[str, str],
    failure: GateFailure,
    journal: str,
    live: bool,
) -> str:
    """Compose the message for an instance that did not pass its gate."""
    cause = None
    if failure.answer.status is None and parameters["module"]:
        cause = diagnose_import(layout, release, parameters["module"], parameters["user"], environment)
    lines = [f"Release {release} of {layout.name} did not pass its gate: {failure.reason}."]
    if cause:
        lines.append(
            f"app_module: '{parameters['module']}' cannot be imported: {cause}. Write it as "
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
        lines.append("It got no traffic and was removed; the release before it goes on.")
    return "\n".join(lines)


def stage(module: AnsibleModule, layout: Layout, systemd: Systemd) -> dict[str, Any]:
    """Do the module's work and return its result."""
    parameters = module.params
    environment = read_environment(parameters["environment"])
    gate = gate_from(parameters["gate"])
    state = read_state(layout)
    release = release_id(
        parameters["key"].encode() if parameters["key"] else read_key(layout, create=not module.check_mode),
        {
            "build": parameters["build"],
            "environment": environment,
            "files": parameters["files"],
            # What an instance had to answer: the load balancer asks for the same.
            "gate": {name: parameters["gate"].get(name) for name in ("path", "host", "status", "body")},
            "unit": parameters["unit"],
        },
    )
    unit = layout.unit_name(release)
    created = release not in state.releases
    running = not created and systemd.state(unit).active == "active"
    result: dict[str, Any] = {
        "release": release,
        "created": created,
        "previous": state.current,
        "changed": not running,
        "diff": difference(layout, state.current, release, parameters, environment) if release != state.current else [],
    }
    # One that runs and is not current may have been left by a run that was cut short at the gate.
    if module.check_mode or (running and release == state.current):
        return result

    make_shared(layout, parameters["shared"], parameters["user"])
    create_release(
        layout,
        release,
        parameters["build"],
        parameters["files"],
        environment,
        {"name": layout.name, **parameters["manifest"]},
    )
    if install_unit(layout, release, parameters["unit"]):
        systemd.reload()
    write_file(layout.permit(release), "", 0o644)
    started = time.time()
    public = "\n".join([layout.name, parameters["unit"], *parameters["files"].values()])
    hidden = secrets_of(environment, public)
    try:
        if not running:
            systemd.start(unit)
        result["answer"] = mask(str(pass_gate(layout, release, gate, systemd)), hidden)
    except ReleaseError as failure:
        live = release == state.current
        journal = systemd.journal(unit, started)
        if isinstance(failure, GateFailure):
            message = explain(layout, release, parameters, environment, failure, journal, live)
        else:
            message = f"{failure}\n{journal}".strip()
        if not live:
            systemd.stop(unit)
            remove_unit(layout, release)
            systemd.reload()
            if created:
                remove_tree(layout.release(release))
        module.fail_json(msg=mask(message, hidden), release=release, created=False, previous=state.current)
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "build": {"type": "str", "required": True},
            "unit": {"type": "str", "required": True},
            "files": {"type": "dict", "default": {}},
            "environment": {"type": "str", "default": "{}", "no_log": True},
            "key": {"type": "str", "no_log": True},
            "manifest": {"type": "dict", "default": {}},
            "module": {"type": "str"},
            "user": {"type": "str", "required": True},
            "shared": {"type": "list", "elements": "str", "default": []},
            "gate": {"type": "dict", "default": {}, "options": GATE_OPTIONS},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    layout = Layout(module.params["name"], Path(module.params["directory"]))
    try:
        if module.check_mode:
            result = stage(module, layout, Systemd())
        else:
            with exclusive(layout):
                result = stage(module, layout, Systemd())
    except ReleaseError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
