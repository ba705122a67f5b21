#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module release_run: run a command once, in a release and with its settings."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_run
short_description: Run a command once, in a release and with its settings
version_added: 0.1.0
description:
  - Runs as the application's account, in the code of the release, with its virtual environment and its
    environment, as confined as an instance. No shell is involved.
  - It is a transient service of systemd. When the connection to the host breaks, it goes on to its
    end, and another one of the same O(task) waits for that first.
options:
  name:
    description: Name of the application.
    type: str
    required: true
  directory:
    description: Directory of the application on the host.
    type: path
    required: true
  deploy:
    description:
      - The deploy that this is a step of. It must have the host's lock, see
        M(wsgi.fleet.release_begin).
    type: str
  release:
    description:
      - The release to run in. Without one, the command runs in O(directory), without settings.
    type: str
    default: ''
  task:
    description: What the command is for, such as C(migrate). It is part of the name of the service.
    type: str
    required: true
  command:
    description:
      - Program and arguments. A program without a slash is sought in the release's virtual
        environment first.
    type: str
    required: true
  timeout:
    description: Seconds that it may take.
    type: float
    default: 600
  user:
    description: The account that it runs as.
    type: str
    required: true
  sandbox:
    description: Directives of the service, as the filter P(wsgi.fleet.sandbox_directives#filter) makes them.
    type: list
    elements: str
    default: []
  environment:
    description: Further environment variables. No secrets.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Nothing is run.
  diff_mode:
    support: full
    description: The command is shown.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Migrate the database
  wsgi.fleet.release_run:
    name: shop
    directory: /srv/shop
    release: 8a41d0c29be7
    task: migrate
    command: flask --app shop db upgrade
    user: shop
"""

RETURN = r"""
output:
  description: What the command has printed, secrets masked, from its end.
  type: str
  returned: success
"""

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import Systemd, mask, secrets_of
from ansible_collections.wsgi.fleet.plugins.module_utils._process import split_command
from ansible_collections.wsgi.fleet.plugins.module_utils._release import (
    Layout,
    ReleaseError,
    environment_of,
    write_file,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._transaction import step

#: Characters of the output that are returned.
MOST_OUTPUT = 20000


def invocation(layout: Layout, unit: str, printed: Path, parameters: dict[str, Any]) -> list[str]:
    """Compose the call of systemd-run.

    :param printed: takes what the command prints. A pipe to this module would break with the module, and
        the command with it.
    """
    release = layout.release(parameters["release"]) if parameters["release"] else None
    properties = [
        f"User={parameters['user']}",
        f"Group={parameters['user']}",
        "UMask=0027",
        f"SyslogIdentifier={unit.removesuffix('.service')}",
        f"WorkingDirectory={release / 'build' / 'code' if release else layout.root}",
        f"RuntimeMaxSec={parameters['timeout']:g}",
        "TimeoutStopSec=10",
        f"StandardOutput=truncate:{printed}",
        "StandardError=inherit",
    ]
    path = "/usr/local/bin:/usr/bin:/bin"
    if release:
        properties.append(f"EnvironmentFile={release / 'env'}")
        path = f"{release / 'build' / 'venv' / 'bin'}:{path}"
    environment = {
        "PATH": path,
        "APP_RELEASE": parameters["release"],
        "PYTHONUNBUFFERED": "1",
        **parameters["environment"],
    }
    return [
        "systemd-run", "--quiet", "--wait", "--collect", "--service-type=exec", f"--unit={unit}",
        *(f"--property={item}" for item in [*properties, *parameters["sandbox"]]),
        *(f"--setenv={name}={value}" for name, value in environment.items()),
        # env seeks the program by the PATH of the service; systemd would replace variables in its arguments.
        "--", "/usr/bin/env", *(word.replace("$", "$$") for word in split_command(parameters["command"])),
    ]  # fmt: skip


def run_command(layout: Layout, parameters: dict[str, Any], systemd: Systemd) -> str:
    """Run the command and return what it has printed.

    :raises ReleaseError: when it fails, with that.
    """
    unit = f"{layout.name}.run-{parameters['task']}.service"
    end = time.monotonic() + parameters["timeout"]
    while systemd.active(unit):
        if time.monotonic() > end:
            raise ReleaseError(
                f"{unit} still runs, left by an earlier deploy: see 'systemctl status {unit}' on the host"
            )
        time.sleep(0.5)
    hidden: set[str] = set()
    if parameters["release"]:
        hidden = secrets_of(
            environment_of(layout, parameters["release"]), "\n".join([layout.name, parameters["command"]])
        )
    printed = layout.permit(f"{parameters['task']}.log")
    write_file(printed, "", 0o600)
    done = subprocess.run(  # pylint: disable=ansible-bad-function
        invocation(layout, unit, printed, parameters),
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    output = mask(f"{done.stdout}{printed.read_text(errors='replace')}", hidden).strip()[-MOST_OUTPUT:]
    printed.unlink()
    if done.returncode != 0:
        raise ReleaseError(
            f"{parameters['task']}: '{parameters['command']}' ended with status {done.returncode}"
            f" (it may take {parameters['timeout']:g} s). It printed:\n{output or '(nothing)'}"
        )
    return output


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "deploy": {"type": "str"},
            "release": {"type": "str", "default": ""},
            "task": {"type": "str", "required": True},
            "command": {"type": "str", "required": True},
            "timeout": {"type": "float", "default": 600},
            "user": {"type": "str", "required": True},
            "sandbox": {"type": "list", "elements": "str", "default": []},
            "environment": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    parameters = module.params
    layout = Layout(parameters["name"], Path(parameters["directory"]))
    output = ""
    try:
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", parameters["task"]):
            raise ReleaseError(f"task: '{parameters['task']}' is not a plain name")
        split_command(parameters["command"])
        if not module.check_mode:
            # The host's lock file is not held meanwhile: a command may take long, and the deploy has its lock.
            with step(layout, parameters["deploy"]):
                pass
            output = run_command(layout, parameters, Systemd())
    except (ReleaseError, OSError) as error:
        module.fail_json(msg=str(error))
    diff = {"prepared": f"{parameters['task']}: {parameters['command']}\n"}
    module.exit_json(changed=True, output=output, diff=diff)


if __name__ == "__main__":
    main()
