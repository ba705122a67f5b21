"""Certificates: what is issued, when it is issued anew, what of others' is refused, and what a port serves."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail, AnsibleFilterError
from ansible.module_utils.testing import patch_module_args
from ansible_collections.wsgi.fleet.plugins.action import certificate as action
from ansible_collections.wsgi.fleet.plugins.filter.certificate_bundle import bundle
from ansible_collections.wsgi.fleet.plugins.module_utils import _certificate as core
from ansible_collections.wsgi.fleet.plugins.modules import certificate as documentation
from ansible_collections.wsgi.fleet.plugins.modules import certificate_served
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)
DAY = timedelta(days=1)
SHOP = ["shop.example.com", "*.shop.example.com"]
ADDRESSES = ["192.0.2.10", "2001:db8::10"]
WHERE = core.Pair("certificate_file: /c/shop.crt", "certificate_key_file: /c/shop.key")


@pytest.fixture(scope="module")
def authority() -> core.Pair:
    return core.make_authority(3650, NOW)


@pytest.fixture(scope="module")
def shop(authority: core.Pair) -> core.Pair:
    return core.issue(authority, SHOP, ADDRESSES, 90, NOW)


def read(text: str) -> Any:
    return x509.load_pem_x509_certificate(text.encode())


def made(
    key: Any,
    *,
    names: list[str] | None = None,
    usage: Any = None,
    algorithm: Any = None,
    days: tuple[int, int] = (-1, 60),
    issuer: str = "Somebody",
    common_name: str = "Somebody",
) -> str:
    """Sign a certificate by its own key, with what an authority would refuse to sign."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW + days[0] * DAY)
        .not_valid_after(NOW + days[1] * DAY)
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    done = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else algorithm or hashes.SHA256())
    return done.public_bytes(serialization.Encoding.PEM).decode()


def text_of(key: Any, passphrase: bytes = b"") -> str:
    form = serialization.PrivateFormat.PKCS8
    secret: Any = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    text: bytes = key.private_bytes(serialization.Encoding.PEM, form, secret)
    return text.decode()


# What is issued


def test_the_authority_can_issue_for_servers_and_nothing_more(authority: core.Pair) -> None:
    certificate = read(authority.certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value) == (True, x509.BasicConstraints(ca=True, path_length=0))
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (True, True, False)
    assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
    assert certificate.not_valid_after_utc == NOW + 3650 * DAY
    assert certificate.subject == certificate.issuer
    assert certificate.public_key().curve.name == "secp256r1"


def test_two_authorities_have_two_names(authority: core.Pair) -> None:
    assert read(core.make_authority(10, NOW).certificate).subject != read(authority.certificate).subject


def test_what_a_certificate_says(authority: core.Pair, shop: core.Pair) -> None:
    certificate, issuer = read(shop.certificate), read(authority.certificate)
    extensions = certificate.extensions
    assert {extension.oid._name: extension.critical for extension in extensions} == {
        "basicConstraints": True,
        "keyUsage": True,
        "extendedKeyUsage": False,
        "subjectAltName": False,
        "subjectKeyIdentifier": False,
        "authorityKeyIdentifier": False,
    }
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign, usage.key_encipherment) == (True, False, False)
    own = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert own == issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
    assert certificate.not_valid_after_utc == NOW + 90 * DAY
    assert certificate.subject.rfc4514_string() == "CN=shop.example.com"
    certificate.verify_directly_issued_by(issuer)
    assert core.describe(shop.certificate) == core.Facts(
        names=("shop.example.com", "*.shop.example.com", "192.0.2.10", "2001:db8::10"),
        issuer=issuer.subject.rfc4514_string(),
        not_before=NOW - timedelta(hours=1),
        not_after=NOW + 90 * DAY,
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def test_an_address_among_the_names_is_one(authority: core.Pair) -> None:
    names = ["shop.example.com", "192.0.2.10"]
    pair = core.issue(authority, names, ["192.0.2.10", "192.0.2.11"], 90, NOW)
    every = read(pair.certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert every.get_values_for_type(x509.DNSName) == ["shop.example.com"]
    assert list(map(str, every.get_values_for_type(x509.IPAddress))) == ["192.0.2.10", "192.0.2.11"]
    assert core.reason_to_renew(pair.bundle, authority, names, ["192.0.2.11"], NOW) == ""
    assert core.check_provided(pair.certificate, pair.key, names, WHERE, NOW) == []


def test_a_name_too_long_for_the_subject_stands_in_the_list_alone(authority: core.Pair) -> None:
    """Then the list has to be critical: RFC 5280, section 4.2.1.6."""
    name = f"{'a' * 60}.example.com"
    certificate = read(core.issue(authority, [name], [], 90, NOW).certificate)
    assert list(certificate.subject) == []
    assert certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    assert core.names_of(certificate) == [name]


def test_no_certificate_outlives_its_authority() -> None:
    authority = core.make_authority(30, NOW)
    with pytest.raises(core.CertificateError, match=r"certificate_days: 31 days .*\(until 2026-03-31\): remove"):
        core.issue(authority, SHOP, [], 31, NOW)
    core.issue(authority, SHOP, [], 30, NOW)


@pytest.mark.parametrize(
    ("names", "addresses", "said"),
    [
        ([], [], "certificate_host_names: is empty, and so is certificate_addresses"),
        (["Shop.example.com"], [], "certificate_host_names: 'Shop.example.com' is not a host name: write it in lower"),
        (["*"], [], "certificate_host_names: '*' is not a host name"),
        (["a b"], [], "certificate_host_names: 'a b' is not"),
        (["x\n"], [], r"certificate_host_names: 'x\n' is not"),
        (["2001:db8::1"], [], "certificate_host_names: '2001:db8::1' is not a host name"),
        ([], ["shop"], "certificate_addresses: 'shop' is not an address: write one such as 10.0.0.10"),
        ([], ["10.0.0.0/8"], "certificate_addresses: '10.0.0.0/8' is not an address"),
    ],
)
def test_names_that_no_certificate_can_have(names: list[str], addresses: list[str], said: str) -> None:
    with pytest.raises(core.CertificateError) as raised:
        core.check_names(names, addresses)
    assert str(raised.value).startswith(said)


# When it is issued anew


@pytest.mark.parametrize(
    ("names", "addresses", "later", "reason"),
    [
        (SHOP, ADDRESSES, 0 * DAY, ""),
        (SHOP[::-1], ADDRESSES[::-1], 0 * DAY, ""),
        (SHOP, ["192.0.2.10", "2001:DB8:0::10"], 0 * DAY, ""),
        (SHOP, ADDRESSES, 59.9 * DAY, ""),
        (SHOP, ADDRESSES, 60.1 * DAY, "it was valid until 2026-05-30 only"),
        (SHOP, ADDRESSES, 900 * DAY, "it was valid until 2026-05-30 only"),
        (SHOP[:1], ADDRESSES, 0 * DAY, "its names were others"),
        ([*SHOP, "www.example.com"], ADDRESSES, 0 * DAY, "its names were others"),
        (SHOP, ADDRESSES[:1], 0 * DAY, "its names were others"),
    ],
)
def test_when_it_is_issued_anew(
    authority: core.Pair, shop: core.Pair, names: list[str], addresses: list[str], later: timedelta, reason: str
) -> None:
    assert core.reason_to_renew(shop.bundle, authority, names, addresses, NOW + later) == reason


def test_what_is_damaged_or_of_others_is_issued_anew(authority: core.Pair, shop: core.Pair) -> None:
    def reason(text: str | None) -> str:
        return core.reason_to_renew(text, authority, SHOP, ADDRESSES, NOW)

    other = core.issue(core.make_authority(3650, NOW), SHOP, ADDRESSES, 90, NOW)
    assert reason(None) == "there was none"
    assert (
        reason("") == reason(shop.certificate) == reason("-----BEGIN CERTIFICATE-----\nx\n") == "it could not be read"
    )
    assert reason(shop.bundle.replace("MII", "MIJ", 1)) == "it could not be read"
    assert reason(shop.certificate + other.key) == "its key was another one's"
    assert reason(other.bundle) == "another authority had issued it"


@pytest.mark.parametrize(
    ("damage", "later", "said"),
    [
        (lambda own, other: own.certificate, 0, "cannot be read (a certificate and its key are needed, both as PEM)"),
        (lambda own, other: "", 0, "cannot be read"),
        (lambda own, other: own.bundle.replace("MII", "MIJ", 1), 0, "cannot be read"),
        (lambda own, other: own.certificate + other.key, 0, "the key of the fleet's own authority is not that of"),
        (lambda own, other: own.bundle, 3650, "the fleet's own authority was valid until 2036-02-27: remove it"),
    ],
)
def test_an_authority_that_cannot_issue_is_refused_and_never_replaced(
    authority: core.Pair, shop: core.Pair, damage: Callable[[core.Pair, core.Pair], str], later: int, said: str
) -> None:
    with pytest.raises(core.CertificateError) as raised:
        core.read_authority(damage(authority, shop), NOW + later * DAY)
    assert said in str(raised.value)
    assert "clients then have to trust" in str(raised.value)


# What somebody provides


@pytest.mark.parametrize(
    ("there", "wanted", "good"),
    [
        ("shop.example.com", "shop.example.com", True),
        ("Shop.Example.com", "shop.example.com", True),
        ("*.example.com", "shop.example.com", True),
        ("*.example.com", "*.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "a.shop.example.com", False),
        ("*.example.com", "*.shop.example.com", False),
        ("*.com", "*.example.com", False),
        ("shop.example.com", "*.example.com", False),
        ("*", "shop", False),
        ("s*.example.com", "shop.example.com", False),
    ],
)
def test_which_names_a_name_stands_for(there: str, wanted: str, good: bool) -> None:
    assert core.covers(there, wanted) is good


def test_a_good_certificate_is_accepted(authority: core.Pair, shop: core.Pair) -> None:
    chain = f"Bag Attributes\n  friendlyName: shop\n{shop.certificate}\r\n{authority.certificate}"
    for key in (shop.key, f"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{shop.key}"):
        assert core.check_provided(chain, key, ["shop.example.com", "red.shop.example.com"], WHERE, NOW) == []
    weak = rsa.generate_private_key(65537, 2048)
    assert core.check_provided(made(weak, names=["a.b"]), text_of(weak), ["a.b"], WHERE, NOW) == []


def test_what_will_soon_not_do_is_a_warning(authority: core.Pair, shop: core.Pair) -> None:
    (said,) = core.check_provided(shop.certificate, shop.key, SHOP, WHERE, NOW + 77 * DAY)
    assert said.startswith("certificate_file: /c/shop.crt is valid until 2026-05-30 only: have it renewed")
    other = core.make_authority(10, NOW)
    (said,) = core.check_provided(shop.certificate + other.certificate, shop.key, SHOP, WHERE, NOW)
    assert said.startswith("certificate_file: /c/shop.crt: a certificate is not followed by its issuer's")


P256 = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
SMALL = rsa.generate_private_key(65537, 1024)  # noqa: S505 -- to be refused
K1 = ec.generate_private_key(ec.SECP256K1())
ED = ed25519.Ed25519PrivateKey.generate()
GOOD = made(P256, names=["a.b"])


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("", text_of(P256), "certificate_file: /c/shop.crt holds no certificate: it has to be PEM"),
        (text_of(P256), text_of(P256), "certificate_file: /c/shop.crt holds no certificate but PRIVATE KEY: it"),
        (GOOD.replace("MII", "MIJ", 1), text_of(P256), "certificate_file: /c/shop.crt cannot be read as a certificate"),
        (GOOD, "", "certificate_key_file: /c/shop.key holds no private key: it has to be PEM"),
        (GOOD, GOOD, "certificate_key_file: /c/shop.key holds no private key but CERTIFICATE: it has to be PEM"),
        (GOOD, text_of(P256, b"secret"), "certificate_key_file: /c/shop.key has a passphrase, for which nobody"),
        (GOOD, text_of(P256).replace("MIG", "MIH", 1), "certificate_key_file: /c/shop.key cannot be read as a private"),
        (GOOD, text_of(OTHER), "certificate_key_file: /c/shop.key is not the key of /c/shop.crt: name the one that"),
        (made(OTHER, names=["a.b"]) + GOOD, text_of(P256),
         "certificate_file: /c/shop.crt: the certificate of the key is not the first one: put it at the top"),
        (made(P256, names=["a.b"], days=(-9, -1)), text_of(P256),
         "certificate_file: /c/shop.crt was valid until 2026-02-28 12:00 UTC: name one that still is"),
        (made(P256, names=["a.b"], days=(1, 60)), text_of(P256),
         "certificate_file: /c/shop.crt is not valid before 2026-03-02 12:00 UTC: name one that is, or see that"),
        (made(P256, names=["c.d", "e.f"]), text_of(P256),
         "certificate_file: /c/shop.crt is for c.d, e.f, and not for a.b: name a certificate for all of them"),
        (made(P256, common_name="a.b"), text_of(P256), "certificate_file: /c/shop.crt is for no host name at all, and"),
        (made(P256, names=["a.b"], usage=ExtendedKeyUsageOID.CLIENT_AUTH), text_of(P256),
         "certificate_file: /c/shop.crt is not for servers: have one issued for server authentication"),
        (made(SMALL, names=["a.b"]), text_of(SMALL), "certificate_file: /c/shop.crt has RSA with 1024 bits, which"),
        (made(K1, names=["a.b"]), text_of(K1), "certificate_file: /c/shop.crt has the curve secp256k1, which"),
        (made(ED, names=["a.b"]), text_of(ED), "certificate_file: /c/shop.crt has a key that is neither RSA nor ECDSA"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(certificate: str, key: str, said: str) -> None:
    with pytest.raises(core.CertificateError) as raised:
        core.check_provided(certificate, key, ["a.b"], WHERE, NOW)
    assert str(raised.value).startswith(said)
    assert "PRIVATE KEY-----\n" not in str(raised.value)


def test_broken_hashes_are_refused() -> None:
    broken = hashes.SHA1()  # noqa: S303 -- to be refused
    leaf = SimpleNamespace(public_key=P256.public_key, signature_hash_algorithm=broken)
    with pytest.raises(core.CertificateError, match="has a signature with SHA1, which clients or OpenSSL refuse"):
        core._check_strength(leaf, "certificate_file: x")


def test_a_bundle_holds_certificates_and_one_key(authority: core.Pair, shop: core.Pair) -> None:
    chain = f"  subject=shop\n{shop.certificate}{authority.bundle}"
    assert bundle(chain, f"# key\n{shop.key}") == shop.certificate + authority.certificate + shop.key
    assert bundle(shop.bundle.replace("\n", "\r\n"), shop.bundle) == shop.bundle
    with pytest.raises(AnsibleFilterError, match=r"^certificate_bundle: a certificate and its key are needed"):
        bundle(shop.certificate, "")


# By ACME


def test_the_thumbprint_of_an_account_is_that_of_the_standard() -> None:
    """The key is that of RFC 7517, appendix A.1, and its thumbprint that of other implementations of RFC 7638."""
    d, x, y = (
        int.from_bytes(base64.urlsafe_b64decode(text + "="), "big")
        for text in (
            "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE",
            "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
        )
    )
    key = ec.EllipticCurvePrivateNumbers(d, ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1())).private_key()
    assert core.thumbprint(text_of(key)) == "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"


def test_each_account_is_another_one() -> None:
    thumbprints = {core.thumbprint(core.make_account()) for _number in range(20)}
    assert len(thumbprints) == 20
    assert {len(text) for text in thumbprints} == {43}


@pytest.mark.parametrize(
    "text",
    ["", "damaged", text_of(rsa.generate_private_key(65537, 2048)), text_of(ec.generate_private_key(ec.SECP384R1()))],
)
def test_the_key_of_an_account_that_was_not_made_here_is_refused(text: str) -> None:
    with pytest.raises(core.CertificateError, match="the key of the account cannot be read: restore it"):
        core.thumbprint(text)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("*.acme.net", "stands for many names"),
        ("203.0.113.7", "is an address"),
        ("2001:db8::7", "is an address"),
        ("shop", "is no name that a public authority issues for"),
        ("localhost", "is no name that a public"),
        ("shop.internal", "is no name that a public"),
        ("shop.local", "is no name that a public"),
        ("shop.test", "is no name that a public"),
        ("shop.home.arpa", "is no name that a public"),
        ("example.com", "is no name that a public"),
        ("shop.example.net", "is no name that a public"),
        ("myexample.com", ""),
        ("example.com.acme.net", ""),
        ("internal.acme.net", ""),
        ("shop.acme.net", ""),
    ],
)
def test_names_that_an_authority_issues_for(name: str, why: str) -> None:
    found = core.why_not_issued(name, public=True)
    assert found.startswith(why)
    assert bool(found) is bool(why)
    # One that is not public issues for every name, if it is the name of one host.
    assert bool(core.why_not_issued(name, public=False)) is why.startswith(("stands", "is an address"))


def test_as_many_names_as_one_certificate_takes() -> None:
    names = [f"shop{number}.acme.net" for number in range(101)]
    core.check_issuable(names[:100], public=True)
    with pytest.raises(core.CertificateError, match="has 101 names, and one certificate can be for 100"):
        core.check_issuable(names, public=True)
    with pytest.raises(core.CertificateError, match="certificate_host_names: is empty"):
        core.check_issuable([], public=False)


# The action

Result = dict[str, Any]


class Action:
    """Runs the action as a task of a role would."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, *, check: bool = False, **arguments: Any) -> Result:
        arguments = {
            "method": "self_signed",
            "host_names": SHOP,
            "directory": str(self.directory),
            "name": "shop",
            **arguments,
        }
        task = SimpleNamespace(
            args=arguments, async_val=0, check_mode=check, diff=True, action="wsgi.fleet.certificate", no_log=False
        )
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="unused"))
        result: Result = action.ActionModule(task, connection, None, None, None, None).run(task_vars={})
        assert "PRIVATE KEY-----" not in json.dumps(result)
        return result

    def passes(self, **arguments: Any) -> Result:
        """Run the action, which has to end well, with the keys that it documents and no others."""
        result = self(**arguments)
        assert "failed" not in result, result["msg"]
        assert {"msg", "names", "issuer", "not_before", "not_after", "sha256"} <= set(result)
        assert set(result) - {"changed", "diff", "warnings"} <= set(yaml.safe_load(documentation.RETURN))
        return result

    def fails(self, **arguments: Any) -> str:
        result = self(**arguments)
        assert result.get("failed") is True
        return str(result["msg"])

    def text(self, name: str) -> str:
        return (self.directory / name).read_text()


@pytest.fixture
def run(tmp_path: Path) -> Action:
    return Action(tmp_path / "secrets" / "tls")


def test_it_is_made_once_and_kept(run: Action) -> None:
    first = run.passes()
    assert (first["changed"], first["msg"]) == (True, "A new certificate was issued: there was none.")
    assert (first["path"], first["authority"]) == (f"{run.directory}/shop.pem", f"{run.directory}/ca.crt")
    assert first["names"] == SHOP
    assert first["diff"]["before"] == ""
    assert first["diff"]["after"].startswith("names: shop.example.com, *.shop.example.com\nissuer: CN=wsgi.fleet CA ")
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in run.directory.iterdir()} == {
        "authority.pem": 0o600,
        "ca.crt": 0o644,
        "shop.pem": 0o600,
    }
    assert stat.S_IMODE(run.directory.stat().st_mode) == 0o700
    assert run.text("authority.pem").startswith(run.text("ca.crt"))
    before = {path.name: path.read_bytes() for path in run.directory.iterdir()}
    again = run.passes()
    assert (again["changed"], again["msg"], again["sha256"]) == (False, "The certificate is good.", first["sha256"])
    assert again["diff"]["before"] == again["diff"]["after"]
    assert {path.name: path.read_bytes() for path in run.directory.iterdir()} == before


def test_it_is_renewed_by_the_same_authority(run: Action) -> None:
    first, authority = run.passes(), run.text("authority.pem")
    for arguments, reason in (
        ({"renew": True}, "certificate_renew asked for it"),
        ({"host_names": ["www.example.com"]}, "its names were others"),
        ({"host_names": ["www.example.com"], "addresses": ["192.0.2.10"]}, "its names were others"),
    ):
        result = run.passes(**arguments)
        assert (result["changed"], result["msg"]) == (True, f"A new certificate was issued: {reason}.")
        assert result["sha256"] != first["sha256"]
        assert run.text("authority.pem") == authority
    (run.directory / "ca.crt").unlink()
    result = run.passes(host_names=["www.example.com"], addresses=["192.0.2.10"])
    assert (result["changed"], result["msg"]) == (True, "The certificate is good.")
    assert authority.startswith(run.text("ca.crt"))


def test_a_dry_run_writes_nothing(run: Action) -> None:
    assert run.passes(check=True)["changed"] is True
    assert not run.directory.exists()
    run.passes()
    before = {path.name: path.read_bytes() for path in run.directory.iterdir()}
    assert run.passes(check=True)["changed"] is False
    assert run.passes(check=True, renew=True)["changed"] is True
    assert {path.name: path.read_bytes() for path in run.directory.iterdir()} == before


def test_a_damaged_authority_is_left_alone(run: Action) -> None:
    run.passes()
    (run.directory / "authority.pem").write_text("damaged")
    said = run.fails()
    assert said.startswith(f"certificate_directory: {run.directory}/authority.pem: the fleet's own authority cannot be")
    assert run.text("authority.pem") == "damaged"


def test_a_damaged_certificate_is_replaced(run: Action) -> None:
    run.passes()
    (run.directory / "shop.pem").write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    assert run.passes()["msg"] == "A new certificate was issued: it could not be read."
    assert run.passes()["changed"] is False


def test_by_acme_there_is_the_key_of_an_account_besides(run: Action) -> None:
    names = ["shop.acme.net", "www.acme.net"]
    assert run.passes(method="acme", host_names=names, check=True)["changed"] is True
    assert not run.directory.exists()
    first = run.passes(method="acme", host_names=names)
    assert (first["changed"], first["account"]) == (True, f"{run.directory}/account.pem")
    assert first["names"] == names
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in run.directory.iterdir()} == {
        "account.pem": 0o600,
        "authority.pem": 0o600,
        "ca.crt": 0o644,
        "shop.pem": 0o600,
    }
    # What is to be renewed is not the certificate of the fleet's own.
    again = run.passes(method="acme", host_names=names, renew=True)
    assert (again["changed"], again["thumbprint"], again["sha256"]) == (False, first["thumbprint"], first["sha256"])
    # Another account comes without another certificate.
    (run.directory / "account.pem").unlink()
    other = run.passes(method="acme", host_names=names)
    assert (other["changed"], other["sha256"]) == (True, first["sha256"])
    assert other["thumbprint"] != first["thumbprint"]
    (run.directory / "account.pem").write_text("damaged")
    said = run.fails(method="acme", host_names=names)
    assert said.startswith(f"certificate_directory: {run.directory}/account.pem: the key of the account cannot be read")
    assert run.text("account.pem") == "damaged"


def test_names_that_no_authority_issues_for_are_refused_before_anything_is_made(run: Action) -> None:
    assert "'*.shop.example.com' stands for many names" in run.fails(method="acme", public=False)
    assert "'shop.example.com' is no name that a public" in run.fails(method="acme", host_names=["shop.example.com"])
    assert not run.directory.exists()
    assert run.passes(method="acme", host_names=["shop.example.com"], public=False)["names"] == ["shop.example.com"]


def files(directory: Path, *, now: datetime | None = None) -> Mapping[str, str]:
    directory.mkdir(parents=True, exist_ok=True)
    start = now or datetime.now(timezone.utc).replace(microsecond=0)
    pair = core.issue(core.make_authority(100, start), SHOP, [], 60, start)
    (directory / "shop.crt").write_text(pair.certificate)
    (directory / "shop.key").write_text(pair.key)
    return {"method": "provided", "file": str(directory / "shop.crt"), "key_file": str(directory / "shop.key")}


def test_what_is_provided_is_checked_and_left_where_it_is(run: Action, tmp_path: Path) -> None:
    arguments = files(tmp_path / "given")
    result = run.passes(**arguments)
    assert (result["changed"], result["msg"], result["names"]) == (False, "What was provided can be used.", SHOP)
    assert "path" not in result
    assert not run.directory.exists()
    texts = {"text": Path(arguments["file"]).read_text(), "key_text": Path(arguments["key_file"]).read_text()}
    assert run.passes(method="provided", **texts)["sha256"] == result["sha256"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"file": ""}, "certificate_file: is not set: write a path on the controller, or the text itself into "
                       "certificate_text"),
        ({"key_file": ""}, "certificate_key_file: is not set: write a path on the controller, or the text itself into "
                           "certificate_key_text"),
        ({"text": "x"}, "certificate_file: is set, and certificate_text too: take one of them out"),
        ({"file": "/nowhere/x.crt"}, "certificate_file: /nowhere/x.crt cannot be read (No such file or directory): "
                                     "write the path of a PEM file on the controller"),
        ({"file": "", "text": "x"}, "certificate_text: the text holds no certificate: it has to be PEM, which has a "
                                    "line -----BEGIN CERTIFICATE-----"),
        ({"host_names": []}, "certificate_host_names: is empty, and so is certificate_addresses: name at least one "
                             "host, such as shop.example.com, or an address"),
    ],
)  # fmt: skip
def test_what_is_not_provided_well_is_named(run: Action, tmp_path: Path, change: Result, said: str) -> None:
    assert run.fails(**{**files(tmp_path), **change}) == said


def test_a_file_of_a_vault_is_named(run: Action, tmp_path: Path) -> None:
    arguments = files(tmp_path)
    Path(arguments["key_file"]).write_text("$ANSIBLE_VAULT;1.1;AES256\n62\n")
    said = run.fails(**arguments)
    assert said.startswith(f"certificate_key_file: {tmp_path}/shop.key is encrypted by ansible-vault: write ")
    assert "certificate_key_text: \"{{ lookup('ansible.builtin.file', …) }}\"" in said


def test_a_file_that_is_not_text_is_named(run: Action, tmp_path: Path) -> None:
    arguments = files(tmp_path)
    Path(arguments["file"]).write_bytes(b"\x30\x82\xff\xfe")
    assert "shop.crt cannot be read (it is not text, and so not PEM)" in run.fails(**arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"method": "dns"}, "must be one of: self_signed, provided, acme"),
        ({"methods": 1}, "methods"),
        ({"days": "x"}, "int"),
    ],
)
def test_the_action_knows_its_arguments(run: Action, arguments: Result, said: str) -> None:
    with pytest.raises(AnsibleActionFail, match=said):
        run(**arguments)


def test_the_action_is_as_documented() -> None:
    options = yaml.safe_load(documentation.DOCUMENTATION)["options"]
    keys = {"type", "required", "choices", "elements", "default"}
    assert {name: {key: option[key] for key in keys & option.keys()} for name, option in options.items()} == {
        name: {key: option[key] for key in keys & option.keys()} for name, option in action.ARGUMENTS.items()
    }


# What a port serves


@pytest.fixture
def server(tmp_path: Path, shop: core.Pair) -> Iterator[int]:
    """A port that serves the shop's certificate."""
    (tmp_path / "served.pem").write_text(shop.bundle)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "served.pem")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _address = listening.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(connection, server_side=True) as secured:
                        secured.recv(1)
                except OSError:
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


class Module:
    """Runs certificate_served."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, **arguments: Any) -> Result:
        with patch_module_args({"deadline": 0.3, **arguments}), pytest.raises(SystemExit):
            certificate_served.main()
        result: Result = json.loads(self._capsys.readouterr().out)
        return result


@pytest.fixture
def module(capsys: pytest.CaptureFixture[str]) -> Module:
    return Module(capsys)


def test_the_certificate_of_the_file_is_served(module: Module, tmp_path: Path, server: int, shop: core.Pair) -> None:
    result = module(path=str(tmp_path / "served.pem"), port=server)
    assert (result["changed"], result["sha256"]) == (False, core.describe(shop.certificate).sha256)


def test_another_certificate_is_served(module: Module, tmp_path: Path, server: int, authority: core.Pair) -> None:
    (tmp_path / "other.pem").write_text(authority.certificate)
    result = module(path=str(tmp_path / "other.pem"), port=server)
    assert result["failed"] is True
    assert f"127.0.0.1, port {server}, serves the certificate " in result["msg"]
    assert f"and not {core.describe(authority.certificate).sha256} of {tmp_path}/other.pem" in result["msg"]


def test_nothing_is_served(module: Module, tmp_path: Path, shop: core.Pair) -> None:
    (tmp_path / "served.pem").write_text(shop.certificate)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert "does not answer with TLS (" in module(path=str(tmp_path / "served.pem"), port=port)["msg"]


@pytest.mark.parametrize(("text", "said"), [("", "holds no certificate"), (None, "No such file")])
def test_a_file_without_a_certificate(module: Module, tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "x.pem").write_text(text)
    result = module(path=str(tmp_path / "x.pem"))
    assert result["failed"] is True
    assert said in result["msg"]


def test_hosts_need_no_cryptography(tmp_path: Path) -> None:
    """The module's part works where the import fails."""
    script = (
        "import sys; sys.modules['cryptography'] = None; sys.path.insert(0, sys.argv[1]);"
        "from ansible_collections.wsgi.fleet.plugins.module_utils import _certificate as core;"
        "assert core.MISSING; print(core.fingerprint(sys.stdin.read()))"
    )
    collections = Path(__file__).resolve().parents[2] / ".collections"
    done = subprocess.run(
        ["python3", "-c", script, collections], input=GOOD, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == core.describe(GOOD).sha256, done.stderr
