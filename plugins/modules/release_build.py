#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module release_build: make a build, pack it, or unpack one that another host made."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: release_build
short_description: Make a build of an application on a host, or unpack one
version_added: 0.1.0
description:
  - A build is the source of an application plus its installed dependencies in a virtual
    environment, for one platform. It lies in C(builds/) of O(directory) under its identifier and
    is never changed once it is complete.
  - With O(source) or O(requirement) the build is made on this host. The commands run as
    O(user); the result belongs to root.
  - With O(archive) a build that another host of the same platform has made is unpacked at the
    same path, so that a host needs no compiler and no package index.
options:
  name:
    description: Name of the application.
    type: str
    required: true
  directory:
    description: Directory of the application on the host.
    type: path
    required: true
  build:
    description: Identifier of the build.
    type: str
    required: true
  source:
    description: Path on the host of the source archive that M(wsgi.fleet.app_source) made.
    type: path
  source_checksum:
    description: SHA-256 of O(source) in hexadecimal digits. Another content is refused, and not unpacked.
    type: str
  requirement:
    description: Requirement of the application when it is a package of an index.
    type: str
  archive:
    description: Path on the host of an archive that O(pack) made on another.
    type: path
  checksum:
    description: SHA-256 of O(archive) in hexadecimal digits. Another content is refused.
    type: str
  pack:
    description: Path on the host to pack the build to. The directory must exist.
    type: path
  dependencies:
    description:
      - Where the dependencies stand, relative to the source. V(auto) takes the first of
        C(uv.lock), C(requirements.txt) and a C(pyproject.toml) with a project in it;
        V(none) installs none.
      - A requirements file with hashes is installed with every hash required.
    type: str
    default: auto
  requirements:
    description:
      - Further requirements, such as that of the app server. Each is installed only if the
        application does not bring a version of that distribution itself; extras are not looked at.
      - Of two for the same distribution, the later one counts.
    type: list
    elements: str
    default: []
  modules:
    description: Texts of Python modules by name, which the application can import besides.
    type: dict
    default: {}
  require_hashes:
    description:
      - Whether every archive that is installed has to be pinned by digest in the source, by a C(uv.lock) or by hashes
        in a requirements file. Nothing else is installed then, also of O(requirements).
    type: bool
    default: false
  audit:
    description:
      - Program and arguments that judge the build; C({site_packages}) and C({sbom}) stand for what it is to look at.
        They run as O(user), and a build that they fail is not kept.
    type: str
    default: ''
  audit_requirement:
    description: Package that brings the program of O(audit), in a virtual environment of its own.
    type: str
    default: ''
  module:
    description: The WSGI callable as C(package.module:attribute); its package must be there.
    type: str
  python:
    description: Interpreter for the virtual environment, a path or a name on C(PATH).
    type: str
    default: /usr/bin/python3
  uv:
    description: Requirement of uv, which installs the dependencies.
    type: str
    default: uv
  user:
    description: Account that runs the commands of the build.
    type: str
  environment:
    description:
      - Environment variables for the commands of the build, as the text of a JSON object of
        strings, such as C(UV_INDEX_URL) with a password. None of the values is shown.
    type: str
    default: '{}'
attributes:
  check_mode:
    support: full
    description: Nothing is built or unpacked.
  diff_mode:
    support: none
    description: No differences are shown.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Build the shop
  wsgi.fleet.release_build:
    name: shop
    directory: /srv/shop
    build: 3f9c1e0b7a2d
    source: /var/tmp/shop-source.tar.gz
    requirements:
      - gunicorn==27.0.1
    user: shop-build
    pack: /var/tmp/shop-3f9c1e0b7a2d.tar.zst
"""

RETURN = r"""
built:
  description: Whether the build was made or unpacked now.
  type: bool
  returned: success
dependencies:
  description: Which kind of dependency file was used.
  type: str
  returned: when the build was made
  sample: uv.lock
checksum:
  description: SHA-256 of the packed build.
  type: str
  returned: when O(pack) is set
size:
  description: Size of the packed build in bytes.
  type: int
  returned: when O(pack) is set
"""

import hashlib
import json
import os
import pwd
import re
import shutil
import subprocess  # run_command belongs to a module, and cannot take another account
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._build import (
    Plan,
    Runner,
    audit_command,
    base_environment,
    bill_of_materials,
    check_hashes,
    find_tool,
    install_commands,
    lacking,
    modules_at_top,
    own,
    pack,
    plan_dependencies,
    unpack,
    unpack_source,
)
from ansible_collections.wsgi.fleet.plugins.module_utils._instance import mask, secrets_of
from ansible_collections.wsgi.fleet.plugins.module_utils._release import (
    BUILD_MANIFEST,
    Layout,
    ReleaseError,
    exclusive,
    now,
    write_file,
)

#: The software bill of materials of a build, in CycloneDX.
BILL = "sbom.cdx.json"


def sha256(path: Path) -> str:
    """Return the digest of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_module(module: str, python: Path, code: Path, run: Runner) -> None:
    """Refuse a build in which the package of the WSGI callable is not to be found."""
    package = re.split(r"[.:]", module)[0]
    program = (
        "import importlib.util, sys; sys.path.insert(0, '');"
        " raise SystemExit(importlib.util.find_spec(sys.argv[1]) is None)"
    )
    try:
        run([str(python), "-c", program, package], code)
    except ReleaseError as error:
        there = ", ".join(modules_at_top(code)) or "none"
        raise ReleaseError(
            f"app_module: '{module}': there is no module '{package}' at the top of the source, "
            f"nor among the dependencies. Modules at the top of the source: {there}. Write it as "
            "'package.module:callable', as seen from there."
        ) from error


def write_modules(venv: Path, modules: Mapping[str, str]) -> list[str]:
    """Put modules beside the installed packages, and return their paths.

    :raises ReleaseError: for what cannot be the name of a module.
    """
    paths = []
    for name, text in modules.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ReleaseError(f"modules: '{name}' cannot be the name of a module: write one such as shop_cache")
        for packages in venv.glob("lib/python*/site-packages"):
            write_file(packages / f"{name}.py", text, 0o644)
            paths.append(str(packages / f"{name}.py"))
    return paths


def check_digest(archive: Path, wanted: str | None) -> None:
    """Refuse an archive that is not the one that was sent.

    :raises ReleaseError: with both digests.
    """
    if wanted is not None and (actual := sha256(archive)) != wanted:
        raise ReleaseError(
            f"{archive} has the digest {actual}, not {wanted}: "
            "it was damaged or changed on its way, and was not unpacked"
        )


def audit(parameters: dict[str, Any], venv: Path, bill: Path, run: Runner, environment: dict[str, str]) -> None:
    """Let the operator's command judge a build.

    :raises ReleaseError: with what it said, when it fails.
    """
    words = audit_command(parameters["audit"], venv, bill)
    if parameters["audit_requirement"]:
        words[0] = find_tool(parameters["audit_requirement"], words[0], environment)
    try:
        run(words, venv)
    except (ReleaseError, OSError) as error:
        raise ReleaseError(
            f"app_audit_command: the build is refused and was not kept. {error}\nTake what it names out of the "
            "dependencies or raise its version, or change the command"
        ) from error


def make(target: Path, parameters: dict[str, Any], extra: dict[str, str]) -> str:
    """Make a build in its final place; its manifest, written last, makes it complete.

    :returns: the kind of dependency file that was used.
    """
    try:
        account = pwd.getpwnam(parameters["user"] or "root")
    except KeyError as error:
        raise ReleaseError(f"user: there is no account '{parameters['user']}' on this host") from error
    home = Path("/var/cache/wsgi.fleet") / account.pw_name
    home.mkdir(parents=True, exist_ok=True)
    os.chown(home, account.pw_uid, account.pw_gid)
    home.chmod(0o700)
    environment = base_environment(home, extra)
    uv = find_tool(parameters["uv"], "uv", {**environment, "HOME": "/root"})
    code, venv = target / "code", target / "venv"

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    if parameters["source"]:
        check_digest(Path(parameters["source"]), parameters["source_checksum"])
        unpack_source(Path(parameters["source"]), code)
        plan = plan_dependencies(code, parameters["dependencies"])
    else:
        code.mkdir()
        plan = Plan("none")
    own(target, account.pw_uid, account.pw_gid)
    run = Runner(account.pw_uid, account.pw_gid, {**environment, "UV_PROJECT_ENVIRONMENT": str(venv)})
    packages = [parameters["requirement"]] if parameters["requirement"] else []
    strict = parameters["require_hashes"]
    if strict:
        check_hashes(code, plan, packages)
    for command in install_commands(uv, parameters["python"], venv, code, plan, packages, strict):
        run(command, code)
    further = lacking(venv, parameters["requirements"])
    if further and strict:
        raise ReleaseError(
            f"app_require_hashes: {', '.join(further)} would be installed without a hash: add it to the application's "
            "own dependencies and lock it there, or set the variable to false"
        )
    if further:
        run(
            [uv, "pip", "install", "--python", str(venv / "bin" / "python"),
             "--compile-bytecode", *further],
            code,
        )  # fmt: skip
    modules = write_modules(venv, parameters["modules"])
    if parameters["module"]:
        check_module(parameters["module"], venv / "bin" / "python", code, run)
    # Compiling fails for files that never were meant for this Python (templates of code, tests of
    # syntax errors); such a file is compiled or refused when it is imported.
    subprocess.run(  # pylint: disable=ansible-bad-function
        [str(venv / "bin" / "python"), "-m", "compileall", "-qq", "-j", "0", str(code), *modules],
        check=False, user=account.pw_uid, group=account.pw_gid, extra_groups=(),
        stdin=subprocess.DEVNULL, capture_output=True, env=environment,
    )  # fmt: skip
    own(target, 0, 0)
    created = now()
    bill = target / BILL
    write_file(bill, bill_of_materials(parameters["name"], target.name, venv, created) + "\n", 0o644)
    if parameters["audit"]:
        audit(parameters, venv, bill, run, {**environment, "HOME": "/root"})
    write_file(
        target / BUILD_MANIFEST,
        json.dumps({"build": target.name, "dependencies": plan.kind, "created": created}) + "\n",
        0o644,
    )
    return plan.kind


def build(layout: Layout, parameters: dict[str, Any], extra: dict[str, str]) -> dict[str, Any]:
    """Do the module's work and return its result."""
    target = layout.build(parameters["build"])
    complete = (target / BUILD_MANIFEST).is_file()
    result: dict[str, Any] = {"changed": not complete, "built": not complete}
    if not complete and parameters["archive"]:
        archive = Path(parameters["archive"])
        check_digest(archive, parameters["checksum"])
        unpack(archive, target)
    elif not complete:
        try:
            result["dependencies"] = make(target, parameters, extra)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
    if parameters["pack"]:
        archive = Path(parameters["pack"])
        pack(target, archive)
        archive.chmod(0o600)
        result |= {"changed": True, "checksum": sha256(archive), "size": archive.stat().st_size}
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "build": {"type": "str", "required": True},
            "source": {"type": "path"},
            "source_checksum": {"type": "str"},
            "requirement": {"type": "str"},
            "archive": {"type": "path"},
            "checksum": {"type": "str"},
            "pack": {"type": "path"},
            "dependencies": {"type": "str", "default": "auto"},
            "requirements": {"type": "list", "elements": "str", "default": []},
            "modules": {"type": "dict", "default": {}},
            "require_hashes": {"type": "bool", "default": False},
            "audit": {"type": "str", "default": ""},
            "audit_requirement": {"type": "str", "default": ""},
            "module": {"type": "str"},
            "python": {"type": "str", "default": "/usr/bin/python3"},
            "uv": {"type": "str", "default": "uv"},
            "user": {"type": "str"},
            "environment": {"type": "str", "default": "{}", "no_log": True},
        },
        mutually_exclusive=[("source", "requirement", "archive")],
        required_one_of=[("source", "requirement", "archive")],
        required_by={"archive": ("checksum",)},
        supports_check_mode=True,
    )
    os.umask(0o022)
    parameters = module.params
    layout = Layout(parameters["name"], Path(parameters["directory"]))
    if module.check_mode:
        complete = (layout.build(parameters["build"]) / BUILD_MANIFEST).is_file()
        module.exit_json(changed=not complete or bool(parameters["pack"]), built=not complete)
    try:
        extra: dict[str, str] = {str(k): str(v) for k, v in json.loads(parameters["environment"]).items()}
    except (ValueError, AttributeError):
        module.fail_json(msg="environment is not the text of a JSON object of strings")
    try:
        with exclusive(layout):
            result = build(layout, parameters, extra)
    except (ReleaseError, OSError) as error:
        module.fail_json(msg=mask(str(error), secrets_of(extra, "")))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
