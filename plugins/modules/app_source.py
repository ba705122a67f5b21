#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module app_source: turn what ``app_source`` names into one archive on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: app_source
short_description: Turn the source of an application into one archive with a digest
version_added: 0.1.0
description:
  - Runs on the controller. Takes a git repository, a local directory, an archive or a package,
    and makes one archive of it, named by a digest of paths, modes and contents.
  - The same content gives the same digest, wherever it came from.
  - An archive with absolute paths, links out of its root, devices or set-uid bits is refused.
options:
  source:
    description:
      - A git URL; a local directory; the path of an archive, or its URL with O(checksum); or
        C(pypi:name==version). Relative paths start at O(base).
      - A local git repository is taken at O(version) when that is set, and as it lies there
        when not; what git ignores is left out.
    type: str
    required: true
  base:
    description: Directory that relative paths start at; the working directory when empty.
    type: str
    default: ''
  version:
    description: Branch, tag or commit of a git repository, or a label for other sources.
    type: str
    default: ''
  checksum:
    description: SHA-256 of an archive. Required for a URL.
    type: str
    default: ''
  exclude:
    description: Patterns of names or paths to leave out, besides those that never belong to it.
    type: list
    elements: str
    default: []
  token:
    description: Password or token for a private repository or archive behind https.
    type: str
    default: ''
  key:
    description: Text of the private ssh key for a private repository.
    type: str
    default: ''
  verify:
    description:
      - How far a git repository is trusted. V(commit) takes nothing but a whole commit as O(version). V(signature)
        takes a tag or a commit that somebody in O(signers) has signed with an ssh key.
    type: str
    choices: [none, commit, signature]
    default: none
  signers:
    description: Whose signatures count, in lines such as C(alice@example.com ssh-ed25519 AAAA…).
    type: str
    default: ''
  since:
    description:
      - The commit that is live. With C(--diff), the commits since then are told, for a git repository.
    type: str
    default: ''
  cache:
    description: Directory on the controller that keeps archives and mirrors.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: The archive is made all the same; it lies in the controller's cache only.
  diff_mode:
    support: none
    description: No differences are shown.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Fetch the shop
  wsgi.fleet.app_source:
    source: https://git.example.com/shop.git
    version: v1.4.2
    token: "{{ vault_git_token }}"
    cache: ~/.cache/wsgi.fleet/shop
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
commits:
  description: With C(--diff), a line for each commit since O(since), the newest first.
  type: list
  elements: str
  returned: success
kind:
  description: What the source is, V(git), V(directory), V(archive) or V(package).
  type: str
  returned: success
digest:
  description: SHA-256 over paths, modes and contents.
  type: str
  returned: success
version:
  description: Commit, checksum or version number.
  type: str
  returned: success
archive:
  description: Path of the archive on the controller; null for a package.
  type: str
  returned: success
checksum:
  description: SHA-256 of the archive itself; null for a package.
  type: str
  returned: success
requirement:
  description: Requirement of a package, or null.
  type: str
  returned: success
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._source import (
    Request,
    SourceError,
    commits,
    resolve,
    summary,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "str", "required": True},
            "base": {"type": "str", "default": ""},
            "version": {"type": "str", "default": ""},
            "checksum": {"type": "str", "default": ""},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "token": {"type": "str", "default": "", "no_log": True},
            "key": {"type": "str", "default": "", "no_log": True},
            "verify": {"type": "str", "choices": ["none", "commit", "signature"], "default": "none"},
            "signers": {"type": "str", "default": ""},
            "since": {"type": "str", "default": ""},
            "cache": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o077)
    parameters = module.params
    request = Request(
        parameters["source"],
        parameters["version"],
        parameters["checksum"],
        tuple(parameters["exclude"]),
        parameters["base"],
        parameters["verify"],
        parameters["signers"],
    )
    try:
        cache = Path(parameters["cache"])
        source = resolve(request, cache, parameters["token"], parameters["key"])
        since = parameters["since"]
        told = []
        if module._diff and since and source.kind == "git":
            told = commits(request, since, source.version, cache, parameters["token"], parameters["key"])
    except SourceError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, commits=told, **summary(source))


if __name__ == "__main__":
    main()
