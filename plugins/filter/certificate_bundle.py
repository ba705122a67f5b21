# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter certificate_bundle: put a certificate and its key into one text."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: certificate_bundle
short_description: Put a certificate and its key into one text
version_added: 0.1.0
description:
  - Returns one PEM text with the certificate, those that lead to its authority, and the key, in this
    order, and nothing else that the inputs hold. As one file it is exchanged in one step, so that
    certificate and key always belong together; HAProxy and nginx both read it.
positional: key
options:
  _input:
    description: PEM text with the certificate, followed by those that lead to its authority.
    type: str
    required: true
  key:
    description: PEM text with the key.
    type: str
    required: true
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Write certificate and key as one file
  ansible.builtin.copy:
    content: "{{ certificate | wsgi.fleet.certificate_bundle(key) }}"
    dest: /etc/ssl/shop.pem
    mode: "0600"
"""

RETURN = r"""
_value:
  description: Both in one text.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError


def bundle(certificate: object, key: object) -> str:
    """Return certificate and key as one text.

    :raises AnsibleFilterError: when one of them is missing.
    """
    # Ansible loads all filters of a collection where one is used, and cryptography takes as long as all of them.
    from ansible_collections.wsgi.fleet.plugins.module_utils._certificate import (  # noqa: PLC0415
        CertificateError,
        pair_of,
    )

    try:
        return pair_of(str(certificate), str(key)).bundle
    except CertificateError as error:
        raise AnsibleFilterError(f"certificate_bundle: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"certificate_bundle": bundle}
