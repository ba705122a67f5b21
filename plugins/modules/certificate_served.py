#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module certificate_served: see that a port serves the certificate that a file holds."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: certificate_served
short_description: See that a port serves the certificate that a file holds
version_added: 0.1.0
description:
  - Connects with TLS and compares the fingerprint of the certificate that is served with that of the
    first one in a file. So it shows whether a service has really taken a new certificate.
  - Who has issued the certificate, and for whom, does not matter here.
options:
  path:
    description: File on the host with the certificate.
    type: path
    required: true
  port:
    description: Port that serves it.
    type: int
    default: 443
  address:
    description: Address to connect to.
    type: str
    default: 127.0.0.1
  server_name:
    description: Host name to ask for, where one port serves several certificates.
    type: str
    default: ""
  deadline:
    description: Seconds that the service may take.
    type: float
    default: 10
attributes:
  check_mode:
    support: full
    description: Nothing is ever changed.
  diff_mode:
    support: none
    description: No differences are shown.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: See that the new certificate is in service
  wsgi.fleet.certificate_served:
    path: /etc/ssl/wsgi.fleet/shop.pem
"""

RETURN = r"""
sha256:
  description: Fingerprint of the certificate that is served, in hexadecimal digits.
  type: str
  returned: success
"""

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.wsgi.fleet.plugins.module_utils._certificate import (
    CertificateError,
    fingerprint,
    served_fingerprint,
)

INTERVAL = 0.25


def wait(expected: str, address: str, port: int, server_name: str, deadline: float) -> str:
    """Wait until a port serves a certificate.

    :param expected: its fingerprint.
    :returns: an empty text, or what was found instead when the time was over.
    """
    end = time.monotonic() + deadline
    while True:
        try:
            served = served_fingerprint(address, port, server_name)
            if served == expected:
                return ""
            found = f"serves the certificate {served} still"
        except OSError as error:
            found = f"does not answer with TLS ({error})"
        if time.monotonic() + INTERVAL > end:
            return found
        time.sleep(INTERVAL)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "port": {"type": "int", "default": 443},
            "address": {"type": "str", "default": "127.0.0.1"},
            "server_name": {"type": "str", "default": ""},
            "deadline": {"type": "float", "default": 10},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    path, address, port = parameters["path"], parameters["address"], parameters["port"]
    try:
        expected = fingerprint(Path(path).read_text())
    except (OSError, CertificateError) as error:
        module.fail_json(msg=f"path: {path}: {error}")
    found = wait(expected, address, port, parameters["server_name"], parameters["deadline"])
    if found:
        module.fail_json(msg=f"{address}, port {port}, {found}, and not {expected} of {path}")
    module.exit_json(changed=False, sha256=expected)


if __name__ == "__main__":
    main()
