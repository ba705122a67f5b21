# Copyright: the wsgi.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates: those that the fleet's own authority issues, those that somebody provides, and those of ACME.

What makes or reads them runs on the controller, where ansible-core brings cryptography. What compares
the one in a file with the one that a port serves runs on hosts, with nothing but Python.

Texts are PEM; times are aware of their zone.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import itertools
import json
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as error:
    MISSING: ImportError | None = error
else:
    MISSING = None

HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:\*\.)?[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
    r"(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*"
)
PEM = re.compile(r"-----BEGIN (?P<label>[A-Z0-9 ]+)-----\s.*?-----END (?P=label)-----", re.DOTALL)

#: RFC 5280, appendix A.1: ub-common-name.
LONGEST_COMMON_NAME = 64
#: The clocks of clients may be behind by that much.
CLOCK_SKEW = timedelta(hours=1)
#: With less of its life left than one in so many parts, a certificate is renewed.
RENEW_AT = 3
#: What OpenSSL accepts on Debian and Ubuntu, whose security level is 2.
SMALLEST_RSA = 2048
CURVES = ("secp256r1", "secp384r1", "secp521r1")
BROKEN_HASHES = ("md5", "sha1")
#: What no public authority issues for: names of private use (RFC 6761, 6762, 7686, 8375, ICANN's .internal), and those
#: of documents.
NOT_PUBLIC = re.compile(
    r"(?:.*\.)?(?:localhost|local|internal|test|example|invalid|onion|arpa|example\.(?:com|net|org))"
)
#: Let's Encrypt's limit for one certificate.
MOST_NAMES = 100
#: With fewer days left, a certificate that nobody renews here gets a warning.
EXPIRES_SOON = timedelta(days=14)


class CertificateError(Exception):
    """A certificate that cannot be used; the text names variable, value and remedy."""


@dataclass(frozen=True)
class Pair:
    """Texts of a certificate, followed by those that lead to its authority, and of its key."""

    certificate: str
    key: str

    @property
    def bundle(self) -> str:
        """Both in one text, the certificate first."""
        return self.certificate + self.key


@dataclass(frozen=True)
class Facts:
    """What everybody may know of a certificate.

    :param names: DNS names and addresses that it is for.
    :param sha256: fingerprint, in hexadecimal digits.
    """

    names: tuple[str, ...]
    issuer: str
    not_before: datetime
    not_after: datetime
    sha256: str

    @property
    def text(self) -> str:
        """All of it, in lines, for people and for differences."""
        return (
            f"names: {', '.join(self.names)}\nissuer: {self.issuer}\n"
            f"valid: {self.not_before:%Y-%m-%d %H:%M} to {self.not_after:%Y-%m-%d %H:%M} UTC\n"
            f"sha256: {self.sha256}\n"
        )


def blocks(text: str) -> list[tuple[str, str]]:
    """Return label and text of each part of a PEM text; what stands between them is left out."""
    return [
        (found["label"], "\n".join(line.strip() for line in found[0].splitlines() if line.strip()) + "\n")
        for found in PEM.finditer(text)
    ]


def certificate_blocks(text: str) -> list[str]:
    """Return the certificates of a PEM text."""
    return [block for label, block in blocks(text) if label == "CERTIFICATE"]


def key_blocks(text: str) -> list[str]:
    """Return the private keys of a PEM text."""
    return [block for label, block in blocks(text) if label.endswith("PRIVATE KEY")]


def pair_of(certificate: str, key: str) -> Pair:
    """Take certificates and key from texts that may hold more, such as both in one file.

    :raises CertificateError: when one of them is missing.
    """
    certificates, keys = certificate_blocks(certificate), key_blocks(key)
    if not certificates or not keys:
        raise CertificateError("a certificate and its key are needed, both as PEM")
    return Pair("".join(certificates), keys[0])


# The fleet's own authority


def check_names(names: Sequence[str], addresses: Sequence[str]) -> None:
    """Refuse what a certificate cannot be for.

    :raises CertificateError: naming variable, value and remedy.
    """
    if not names and not addresses:
        raise CertificateError(
            "certificate_host_names: is empty, and so is certificate_addresses: name at least one host, "
            "such as shop.example.com, or an address"
        )
    for name in names:
        if not HOST_NAME.fullmatch(name):
            raise CertificateError(
                f"certificate_host_names: {name!r} is not a host name: write it in lower case, such as "
                "shop.example.com or *.example.com; addresses go into certificate_addresses"
            )
    for address in addresses:
        if not _address(address):
            raise CertificateError(
                f"certificate_addresses: {address!r} is not an address: write one such as 10.0.0.10; "
                "names go into certificate_host_names"
            )


def _address(text: str) -> Any:
    """Return the address that a text is, in the form of the library, or ``None``."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _key_text(key: Any) -> str:
    text: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return text.decode()


def _usage(**uses: bool) -> Any:
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{use: uses.get(use, False) for use in every})


def make_authority(days: int, now: datetime) -> Pair:
    """Make an authority for certificates of servers, and for no further authorities.

    :param days: how long it is valid.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # A name of its own, so that the authorities of several fleets can lie in one store.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"wsgi.fleet CA {serial:x}"[:30])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM).decode(), _key_text(key))


def issue(authority: Pair, names: Sequence[str], addresses: Sequence[str], days: int, now: datetime) -> Pair:
    """Issue a certificate for a server, with a key of its own.

    :param days: how long it is valid.
    :raises CertificateError: when the authority does not last as long.
    """
    issuer: Any = x509.load_pem_x509_certificate(authority.certificate.encode())
    until = now + timedelta(days=days)
    if until > _not_after(issuer):
        raise CertificateError(
            f"certificate_days: {days} days from now the fleet's own authority is no longer valid (until "
            f"{_not_after(issuer):%Y-%m-%d}): remove its file to get a new one, which clients then have to trust, "
            "or write fewer days"
        )
    issuer_key: Any = serialization.load_pem_private_key(authority.key.encode(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    # Who comes by an address wants it as such, also where it stands among the names.
    every = [
        x509.IPAddress(address) if (address := _address(name)) else x509.DNSName(name)
        for name in dict.fromkeys([*names, *addresses])
    ]
    first = [*names, *addresses][0]
    # A subject without a name needs a critical list of names: RFC 5280, section 4.2.1.6.
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, first)] if len(first) <= LONGEST_COMMON_NAME else []
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(every), critical=not subject)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM).decode(), _key_text(key))


def read_authority(text: str, now: datetime) -> Pair:
    """Read the authority that was kept.

    :raises CertificateError: when it cannot issue certificates.
    """
    remedy = "restore it from a backup, or remove it to get a new one, which clients then have to trust"
    try:
        authority = pair_of(text, text)
        certificate = x509.load_pem_x509_certificate(authority.certificate.encode())
        matches = _matches(certificate, serialization.load_pem_private_key(authority.key.encode(), None))
    except (CertificateError, ValueError, TypeError) as error:
        raise CertificateError(f"the fleet's own authority cannot be read ({error}): {remedy}") from error
    if not matches:
        raise CertificateError(f"the key of the fleet's own authority is not that of its certificate: {remedy}")
    if _not_after(certificate) <= now:
        raise CertificateError(
            f"the fleet's own authority was valid until {_not_after(certificate):%Y-%m-%d}: remove it to get a "
            "new one, which clients then have to trust"
        )
    return authority


def reason_to_renew(
    text: str | None, authority: Pair, names: Sequence[str], addresses: Sequence[str], now: datetime
) -> str:
    """Tell why the certificate that was kept does not do any more; an empty text when it does.

    :param text: certificate and key, or ``None`` when there are none.
    """
    if text is None:
        return "there was none"
    try:
        pair = pair_of(text, text)
        certificate = x509.load_pem_x509_certificate(pair.certificate.encode())
        matches = _matches(certificate, serialization.load_pem_private_key(pair.key.encode(), None))
    except (CertificateError, ValueError, TypeError):
        return "it could not be read"
    if not matches:
        return "its key was another one's"
    if not _issued_by(certificate, x509.load_pem_x509_certificate(authority.certificate.encode())):
        return "another authority had issued it"
    # As written in the certificate, where 2001:DB8::1 is 2001:db8::1.
    wanted = {str(_address(name) or name) for name in (*names, *addresses)}
    if set(names_of(certificate)) != wanted:
        return "its names were others"
    start, end = _not_before(certificate), _not_after(certificate)
    if end - now < (end - start) / RENEW_AT:
        return f"it was valid until {end:%Y-%m-%d} only"
    return ""


# By ACME, RFC 8555


def why_not_issued(name: str, public: bool) -> str:
    """Tell why an authority would not issue a certificate for a name by HTTP-01, and what to do; else an empty text.

    :param public: whether it is an authority that everybody trusts.
    """
    if name.startswith("*."):
        return (
            "stands for many names, for which an authority wants changes of the DNS (DNS-01) that nobody makes here: "
            "name each host, or have the certificate made elsewhere and write fleet_tls: provided"
        )
    if _address(name):
        return "is an address: write the name by which clients come"
    if public and ("." not in name or NOT_PUBLIC.fullmatch(name)):
        return (
            "is no name that a public authority issues for: write the public one, or take a certificate of the "
            "fleet's own, fleet_tls: self_signed"
        )
    return ""


def check_issuable(names: Sequence[str], public: bool) -> None:
    """Refuse names that an authority would not issue a certificate for by HTTP-01.

    :raises CertificateError: naming variable, value and remedy.
    """
    if not names:
        raise CertificateError(
            "certificate_host_names: is empty, and an authority issues for host names: write those that clients come by"
        )
    if len(names) > MOST_NAMES:
        raise CertificateError(
            f"certificate_host_names: has {len(names)} names, and one certificate can be for {MOST_NAMES}: name fewer, "
            "or have it made elsewhere and write fleet_tls: provided"
        )
    for name in names:
        if reason := why_not_issued(name, public):
            raise CertificateError(f"certificate_host_names: {name!r} {reason}")


def make_account() -> str:
    """Make the key of an account with an authority."""
    return _key_text(ec.generate_private_key(ec.SECP256R1()))


def thumbprint(account: str) -> str:
    """Return what stands for an account's key in answers to its challenges: RFC 7638, and RFC 8555, section 8.1.

    :raises CertificateError: when the key cannot be read.
    """
    try:
        key: Any = serialization.load_pem_private_key(account.encode(), None)
        numbers = key.public_key().public_numbers()
        fields = {"crv": {"secp256r1": "P-256"}[key.curve.name], "kty": "EC", "x": numbers.x, "y": numbers.y}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise CertificateError(
            "the key of the account cannot be read: restore it from a backup, or remove it to get a new account"
        ) from error
    text = {name: _base64url(value.to_bytes(32, "big")) if name in "xy" else value for name, value in fields.items()}
    return _base64url(hashlib.sha256(json.dumps(text, separators=(",", ":"), sort_keys=True).encode()).digest())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# What somebody provides


def read_provided(which: str, file: str, text: str) -> tuple[str, str]:
    """Return how to call what was provided in a message, and its text.

    :param which: variable that names its file; the one that holds its text ends differently.
    :raises CertificateError: naming variable, value and remedy.
    """
    variable = which.removesuffix("file") + "text"
    if bool(file) == bool(text):
        raise CertificateError(
            f"{which}: is set, and {variable} too: take one of them out"
            if file
            else f"{which}: is not set: write a path on the controller, or the text itself into {variable}"
        )
    if text:
        return f"{variable}: the text", text
    try:
        found = Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text, and so not PEM"
        raise CertificateError(
            f"{which}: {file} cannot be read ({reason}): write the path of a PEM file on the controller"
        ) from error
    if found.startswith("$ANSIBLE_VAULT;"):
        raise CertificateError(
            f"{which}: {file} is encrypted by ansible-vault: write {variable}: \"{{{{ lookup('ansible.builtin.file', "
            '…) }}" with its path, which decrypts it'
        )
    return f"{which}: {file}", found


def use_provided(
    file: str, key_file: str, text: str, key_text: str, names: Sequence[str], now: datetime
) -> tuple[Facts, list[str]]:
    """Read a certificate and its key, as the variables of the role certificate name them, and check them.

    :param names: host names that it has to be for.
    :returns: what everybody may know of it, and warnings.
    :raises CertificateError: naming variable, value and remedy.
    """
    called, certificate = read_provided("certificate_file", file, text)
    key_called, key = read_provided("certificate_key_file", key_file, key_text)
    warnings = check_provided(certificate, key, names, Pair(called, key_called), now)
    return describe(certificate), warnings


def check_provided(certificate: str, key: str, names: Sequence[str], where: Pair, now: datetime) -> list[str]:
    """Check a certificate and its key before any host gets them.

    :param certificate: text with the certificate, and with those that lead to its authority after it.
    :param names: host names that it has to be for.
    :param where: how to call the two in a message: variable and value.
    :returns: warnings.
    :raises CertificateError: naming variable, value and remedy.
    """
    chain = _read_chain(certificate, where.certificate)
    private = _read_key(key, where.key)
    leaf = chain[0]
    if not _matches(leaf, private):
        if any(_matches(other, private) for other in chain[1:]):
            raise CertificateError(
                f"{where.certificate}: the certificate of the key is not the first one: put it at the top, "
                "and below it those that lead to its authority"
            )
        raise CertificateError(
            f"{where.key} is not the key of {where.certificate.rpartition(': ')[2]}: name the one that "
            "the certificate was requested with"
        )
    _check_strength(leaf, where.certificate)
    facts = facts_of(leaf)
    if facts.not_after <= now:
        raise CertificateError(
            f"{where.certificate} was valid until {facts.not_after:%Y-%m-%d %H:%M} UTC: name one that still is"
        )
    if facts.not_before > now:
        raise CertificateError(
            f"{where.certificate} is not valid before {facts.not_before:%Y-%m-%d %H:%M} UTC: name one that is, "
            "or see that the clock is right"
        )
    _check_purpose(leaf, where.certificate)
    missing = [name for name in names if not any(covers(there, name) for there in facts.names)]
    if missing:
        raise CertificateError(
            f"{where.certificate} is for {', '.join(facts.names) or 'no host name at all'}, and not for "
            f"{', '.join(missing)}: name a certificate for all of them, or take what is not served out of "
            "certificate_host_names (app_host_names)"
        )
    warnings = []
    if facts.not_after - now < EXPIRES_SOON:
        warnings.append(
            f"{where.certificate} is valid until {facts.not_after:%Y-%m-%d} only: have it renewed, and run this again"
        )
    if any(below.issuer != above.subject for below, above in itertools.pairwise(chain)):
        warnings.append(
            f"{where.certificate}: a certificate is not followed by its issuer's: clients that are strict about "
            "the order will refuse it"
        )
    return warnings


def _read_chain(text: str, where: str) -> list[Any]:
    found = certificate_blocks(text)
    if not found:
        labels = ", ".join(label for label, _block in blocks(text))
        raise CertificateError(
            f"{where} holds no certificate{f' but {labels}' if labels else ''}: it has to be PEM, which has a "
            "line -----BEGIN CERTIFICATE-----"
        )
    try:
        return [x509.load_pem_x509_certificate(block.encode()) for block in found]
    except ValueError as error:
        raise CertificateError(f"{where} cannot be read as a certificate ({error}): have it sent again") from error


def _read_key(text: str, where: str) -> Any:
    found = key_blocks(text)
    if not found:
        labels = ", ".join(label for label, _block in blocks(text))
        raise CertificateError(
            f"{where} holds no private key{f' but {labels}' if labels else ''}: it has to be PEM, which has a "
            "line -----BEGIN PRIVATE KEY-----"
        )
    if "ENCRYPTED" in found[0]:
        raise CertificateError(
            f"{where} has a passphrase, for which nobody can be asked when a service starts: take it off "
            "(openssl pkey), and keep the key in a vault"
        )
    try:
        return serialization.load_pem_private_key(found[0].encode(), None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"{where} cannot be read as a private key: have it sent again") from error


def _check_strength(certificate: Any, where: str) -> None:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        weak = f"RSA with {key.key_size} bits" if key.key_size < SMALLEST_RSA else ""
    elif isinstance(key, ec.EllipticCurvePublicKey):
        weak = f"the curve {key.curve.name}" if key.curve.name not in CURVES else ""
    else:
        weak = "a key that is neither RSA nor ECDSA"
    algorithm = certificate.signature_hash_algorithm
    if not weak and algorithm is not None and algorithm.name in BROKEN_HASHES:
        weak = f"a signature with {algorithm.name.upper()}"
    if weak:
        raise CertificateError(
            f"{where} has {weak}, which clients or OpenSSL refuse: have one issued for ECDSA with P-256, or "
            f"for RSA with {SMALLEST_RSA} bits or more"
        )


def _check_purpose(certificate: Any, where: str) -> None:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        raise CertificateError(f"{where} is not for servers: have one issued for server authentication")


def covers(there: str, wanted: str) -> bool:
    """Tell whether a name in a certificate stands for a host name, as RFC 6125 says."""
    there = there.lower()
    if there == wanted:
        return True
    # An asterisk is exactly one label.
    label, _dot, parent = wanted.partition(".")
    return there.startswith("*.") and label not in ("", "*") and there[2:] == parent


# Both


def _not_before(certificate: Any) -> datetime:
    # The name with utc came with cryptography 42, and the other one has been on its way out since.
    found: datetime | None = getattr(certificate, "not_valid_before_utc", None)
    return found or certificate.not_valid_before.replace(tzinfo=timezone.utc)


def _not_after(certificate: Any) -> datetime:
    found: datetime | None = getattr(certificate, "not_valid_after_utc", None)
    return found or certificate.not_valid_after.replace(tzinfo=timezone.utc)


def _public_text(key: Any) -> bytes:
    text: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return text


def _matches(certificate: Any, private: Any) -> bool:
    return _public_text(certificate.public_key()) == _public_text(private.public_key())


def _issued_by(certificate: Any, issuer: Any) -> bool:
    key = issuer.public_key()
    signed = (certificate.signature, certificate.tbs_certificate_bytes)
    algorithm = certificate.signature_hash_algorithm
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(*signed, ec.ECDSA(algorithm))
        else:
            key.verify(*signed, padding.PKCS1v15(), algorithm)
    except InvalidSignature:
        return False
    return bool(certificate.issuer == issuer.subject)


def names_of(certificate: Any) -> list[str]:
    """Return the DNS names and the addresses that a certificate is for."""
    try:
        every = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*every.get_values_for_type(x509.DNSName), *map(str, every.get_values_for_type(x509.IPAddress))]


def facts_of(certificate: Any) -> Facts:
    """Say what everybody may know of a certificate, given as an object of cryptography."""
    return Facts(
        names=tuple(names_of(certificate)),
        issuer=certificate.issuer.rfc4514_string(),
        not_before=_not_before(certificate),
        not_after=_not_after(certificate),
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def describe(text: str) -> Facts:
    """Say what everybody may know of the first certificate in a PEM text.

    :raises CertificateError: when it cannot be read.
    """
    return facts_of(_read_chain(text, "the certificate")[0])


# On hosts, without cryptography


def fingerprint(text: str) -> str:
    """Return the SHA-256 of the first certificate in a PEM text, in hexadecimal digits.

    :raises CertificateError: when there is none.
    """
    found = certificate_blocks(text)
    if not found:
        raise CertificateError("holds no certificate")
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0])).hexdigest()
    except ValueError as error:
        raise CertificateError(f"holds no certificate that can be read: {error}") from error


def served_fingerprint(address: str, port: int, server_name: str = "", timeout: float = 5) -> str:
    """Return the SHA-256 of the certificate that a port serves, whoever has issued it.

    :param server_name: name to ask for, as by SNI; none when empty.
    :raises OSError: when no connection with TLS comes about.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Which one it is, is what is asked; nothing is sent and nothing is believed.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((address, port), timeout=timeout) as connection,
        context.wrap_socket(connection, server_hostname=server_name or None) as secured,
    ):
        return hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()
