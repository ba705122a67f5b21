#!/usr/bin/python
# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action certificate."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: certificate
short_description: Have a good certificate on the controller, issued there or provided
version_added: 0.1.0
description:
  - Runs on the controller, with the Python package cryptography, which ansible-core brings. No host
    is contacted, and nothing that is returned or shown is secret.
  - With O(method=self_signed), an authority of the fleet's own issues the certificate. It is made on
    the first run and kept. The certificate is issued anew when less than a third of its life is left,
    when its names are others, or when that is asked for.
  - With O(method=provided), certificate and key are checked, that they can be read, belong together,
    are valid now and for all host names. Messages call options as the role
    wsgi.fleet.certificate does, C(certificate_) before their names.
  - With O(method=acme), the controller asks no authority. It has a certificate of the fleet's own, as with
    O(method=self_signed), for the time until the hosts have theirs, and the key of the account that they
    ask with. Names that an authority would refuse are refused.
  - Keys that are made are ECDSA with P-256.
options:
  method:
    description: Where the certificate comes from.
    type: str
    required: true
    choices: [self_signed, provided, acme]
  host_names:
    description: Names that it has to be for, in lower case.
    type: list
    elements: str
    default: []
  addresses:
    description: Addresses that a certificate of the fleet's own has to be for.
    type: list
    elements: str
    default: []
  directory:
    description:
      - Directory on the controller for C(authority.pem), which holds the authority with its private
        key, C(ca.crt), which is for clients, the certificates with their keys, and C(account.pem), the
        key of the account with O(method=acme).
      - Required with O(method=self_signed) and O(method=acme).
    type: path
  name:
    description:
      - File name of the certificate there, without C(.pem).
      - Required with O(method=self_signed) and O(method=acme).
    type: str
  days:
    description: How long a certificate that is issued is valid.
    type: int
    default: 90
  authority_days:
    description: How long an authority that is made is valid.
    type: int
    default: 3650
  renew:
    description: Whether to issue the certificate anew in any case; only used with O(method=self_signed).
    type: bool
    default: false
  public:
    description:
      - Whether the authority is one that everybody trusts, which issues for public names alone.
      - Only used with O(method=acme).
    type: bool
    default: true
  file:
    description:
      - Path of the certificate on the controller, followed by those that lead to its authority.
      - Only used with O(method=provided), as are the following.
    type: str
    default: ""
  key_file:
    description: Path of its key on the controller.
    type: str
    default: ""
  text:
    description: The certificate itself, in place of O(file).
    type: str
    default: ""
  key_text:
    description: Its key itself, in place of O(key_file).
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: Nothing is written; what would be issued is described.
  diff_mode:
    support: full
    description: Shows names, issuer, times and fingerprint of the certificate before and after, and no key.
author:
  - The wsgi.fleet authors (@wsgi-fleet)
"""

EXAMPLES = r"""
- name: Have a certificate of the fleet's own authority
  wsgi.fleet.certificate:
    method: self_signed
    host_names: [shop.example.com]
    addresses: [10.0.0.10]
    directory: "{{ inventory_dir }}/.secrets/tls"
    name: shop
  run_once: true

- name: Check a certificate that was bought
  wsgi.fleet.certificate:
    method: provided
    host_names: [shop.example.com]
    file: /etc/ssl/shop.crt
    key_file: /etc/ssl/shop.key
  run_once: true
"""

RETURN = r"""
msg:
  description: What was done, and why.
  type: str
  returned: always
path:
  description: File on the controller with the certificate and its key.
  type: str
  returned: when O(method=self_signed) or O(method=acme)
authority:
  description: File on the controller with the authority's certificate, which clients have to trust.
  type: str
  returned: when O(method=self_signed) or O(method=acme)
account:
  description: File on the controller with the key of the account.
  type: str
  returned: when O(method=acme)
thumbprint:
  description: Thumbprint of that key, with which every challenge for the account can be answered.
  type: str
  returned: when O(method=acme)
names:
  description: Names and addresses that the certificate is for.
  type: list
  elements: str
  returned: success
issuer:
  description: Who has issued it.
  type: str
  returned: success
not_before:
  description: From when it is valid, as in ISO 8601.
  type: str
  returned: success
not_after:
  description: Until when it is valid, as in ISO 8601.
  type: str
  returned: success
sha256:
  description: Its fingerprint, in hexadecimal digits.
  type: str
  returned: success
"""
