"""Certificates by ACME, of Pebble, on two load balancers, of which the authority asks now the one and now the other."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from fleet_testing import Load, apply_all, apply_tasks, ask, hosts_of_scenario, put
from testinfra.host import Host

CERTIFICATE = "wsgi.fleet.certificate"
ADDRESSES = {"acme-old": "172.31.78.57", "acme-new": "172.31.78.58"}
NAMES = ["shop.example.com", "www.example.com"]
SHOP = {"Host": "shop.example.com"}
PEM = "/etc/ssl/wsgi.fleet/site.pem"
EPHEMERAL = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
SECRETS = EPHEMERAL / "secrets" / "tls"
RENEW = ("-e", "certificate_renew=true")
CHALLENGE = "/.well-known/acme-challenge/"
#: How what the play says begins when there is no new certificate: where there is none at all, and where there is one.
NONE = (
    "certificate_acme_directory: https://172.31.78.58:14000/dir has not issued a certificate for shop.example.com, www"
)
GOOD = "The certificate is good, but was to be renewed, and https://172.31.78.58:14000/dir has not issued another one:"


def trusting(path: Path | None = None, text: str | None = None) -> ssl.SSLContext:
    """A client that trusts one authority and nobody else."""
    return ssl.create_default_context(cafile=path, cadata=text)


def pebble() -> ssl.SSLContext:
    """A client that trusts the authority, which is another one whenever Pebble has started."""
    server = trusting(EPHEMERAL / "pebble" / "ca.crt")
    return trusting(text=ask(ADDRESSES["acme-new"], "/roots/0", port=15000, tls=server).text)


def served(host: str, context: ssl.SSLContext, name: str = "shop.example.com") -> dict[str, Any]:
    """Return what the certificate says that is served for a name, for which it has to be good."""
    plain = socket.create_connection((ADDRESSES[host], 443), timeout=10)
    with context.wrap_socket(plain, server_hostname=name) as connection:
        return dict(connection.getpeercert() or {})


def reloads(host: Host) -> int:
    """Return how often HAProxy has been reloaded."""
    return host.check_output("journalctl --unit haproxy --output cat").count("Reloaded haproxy.service")


def ended_well(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a run printed, which must have ended well."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PRIVATE KEY" not in done.stdout + done.stderr
    return done.stdout


def told(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a run printed, in one line."""
    assert "PRIVATE KEY" not in done.stdout + done.stderr
    return " ".join(done.stdout.split())


def state(host: Host) -> str:
    """Return the directory of what a host has of the authority."""
    (directory,) = host.check_output("ls -d /var/lib/wsgi.fleet/acme/*").splitlines()
    return directory


@pytest.fixture
def away() -> Iterator[None]:
    """The authority is away."""
    authority = hosts_of_scenario()["acme-new"]
    authority.run_expect([0], "systemctl stop pebble")
    try:
        yield
    finally:
        come_back()


def come_back() -> None:
    """Start the authority, and wait until it answers."""
    hosts_of_scenario()["acme-new"].run_expect([0], "systemctl start pebble")
    for _attempt in range(50):
        try:
            pebble()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("Pebble does not answer")


def test_each_serves_a_certificate_of_its_own_from_the_authority() -> None:
    context = pebble()
    found = {host: [served(host, context, name) for name in NAMES] for host in ADDRESSES}
    for certificates in found.values():
        assert [names for (kind, names) in certificates[0]["subjectAltName"] if kind == "DNS"] == NAMES
        assert certificates[0] == certificates[1]
    assert found["acme-old"][0]["serialNumber"] != found["acme-new"][0]["serialNumber"]


def test_files(host: Host) -> None:
    """Nobody reads keys but root, and HAProxy the one that it uses."""
    found = host.file(PEM)
    assert (found.user, found.group, found.mode) == ("root", "haproxy", 0o640)
    assert re.findall("-----BEGIN (.*)-----", found.content_string) == ["CERTIFICATE", "CERTIFICATE", "EC PRIVATE KEY"]
    directory = state(host)
    assert host.file(directory).mode == 0o700
    keys = host.check_output("find %s/private -name key.pem -printf '%%m %%u\\n'", directory).splitlines()
    assert sorted(keys) == ["400 root", "600 root"]
    account = host.file(f"{directory}/private/key.pem").content_string
    assert account.strip() == (SECRETS / "account.pem").read_text().strip()
    assert host.run("ls %s", f"{PEM}.new").rc != 0


def test_the_account_is_one_and_keys_are_not() -> None:
    hosts = hosts_of_scenario().values()
    assert len({host.check_output("sha256sum <%s/private/key.pem", state(host)) for host in hosts}) == 1
    assert len({host.check_output("openssl pkey -in %s -pubout", PEM) for host in hosts}) == 2


def test_every_balancer_answers_every_challenge() -> None:
    """Over HTTP, where all else is redirected, and whichever name is asked for."""
    answers = set()
    for address in ADDRESSES.values():
        for name in (*NAMES, "evil.example.com"):
            answer = ask(address, f"{CHALLENGE}LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0", headers={"Host": name})
            assert (answer.status, answer.headers["content-type"]) == (200, "application/octet-stream")
            answers.add(answer.text)
        for path in ("/", "/.well-known/acme", "/a/.well-known/acme-challenge/x"):
            assert ask(address, path, headers=SHOP).status == 308
    (answer,) = answers
    assert re.fullmatch(r"LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0\.[A-Za-z0-9_-]{43}", answer)


def test_a_timer_renews_it(host: Host) -> None:
    assert host.check_output("systemctl is-enabled certificate-site.timer") == "enabled"
    assert host.check_output("systemctl is-active certificate-site.timer") == "active"
    until = host.check_output(
        'date -d "$(systemctl show --property NextElapseUSecRealtime --value certificate-site.timer)" +%s'
    )
    assert 0 < int(until) - time.time() < 86400


def test_a_renewal_loses_no_request() -> None:
    """And HAProxy is reloaded once on each host."""
    hosts, context = hosts_of_scenario(), pebble()
    before = {name: (served(name, context)["serialNumber"], reloads(host)) for name, host in hosts.items()}
    # Certificates are for names, and the clients come by addresses.
    by_address = pebble()
    by_address.check_hostname = False
    loads = [Load(address, port=443, headers=SHOP, tls=by_address, rate=50) for address in ADDRESSES.values()]
    with contextlib.ExitStack() as running:
        for load in loads:
            running.enter_context(load)
        said = ended_well(apply_all("acme", *RENEW))
        after = {name: (served(name, context)["serialNumber"], reloads(host)) for name, host in hosts.items()}
        time.sleep(2)
    assert re.findall(r"changed=(\d+)", said) == ["1", "1"]
    assert [load.failures for load in loads] == [[], []]
    assert min(load.requests for load in loads) > 200
    for name in hosts:
        assert after[name][0] != before[name][0]
        assert after[name][1] == before[name][1] + 1


def lasting(key: str, names: list[str], days: int) -> str:
    """Make a certificate that was issued for 90 days, and is valid for so many more."""
    private: Any = serialization.load_pem_private_key(key.encode(), None)
    until = datetime.now(timezone.utc) + timedelta(days=days)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{days} days for {len(names)}")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(until - timedelta(days=90))
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(private, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def test_what_the_timer_starts_renews_what_has_less_than_a_third_of_its_life_left() -> None:
    """And what is not for all of the names."""
    host = hosts_of_scenario()["acme-new"]
    directory = state(host)
    # As OpenSSL writes it: GnuTLS may leave a leading zero of the number out, which not every library reads.
    key = host.check_output("openssl pkey -in %s/private/shop.example.com/key.pem", directory) + "\n"
    for names, days, issuer in ((NAMES, 31, "31 days for 2"), (NAMES, 29, "Pebble"), (NAMES[:1], 80, "Pebble")):
        put(host, f"{directory}/shop.example.com/cert.pem", lasting(key, names, days))
        host.run_expect([0], "systemctl start certificate-site.service")
        assert issuer in host.check_output("openssl x509 -in %s -noout -issuer", PEM)
        assert ssl.get_server_certificate((ADDRESSES["acme-new"], 443)) in host.file(PEM).content_string
    assert host.check_output("ls %s/shop.example.com", directory) == "cert.pem"


@pytest.mark.usefixtures("away")
def test_without_an_authority_the_certificate_stays() -> None:
    """A run that has nothing to ask notices nothing; one that has says it once, and does all else."""
    hosts = hosts_of_scenario()
    before = {name: host.file(PEM).content_string for name, host in hosts.items()}
    quiet = apply_all("acme")
    assert re.findall(r"changed=(\d+)", ended_well(quiet)) == ["0", "0"]
    assert "has not issued" not in told(quiet)
    done = apply_all("acme", *RENEW)
    assert done.returncode == 0
    assert told(done).count(GOOD) == 1
    assert "uacme: failed to fetch directory at https://172.31.78.58:14000/dir" in told(done)
    assert "certificate-site.timer tries by itself twice a day" in told(done)
    # For whoever watches units.
    assert hosts["acme-old"].check_output("systemctl show --property Result --value certificate-site") == "exit-code"
    for name, host in hosts.items():
        assert host.file(PEM).content_string == before[name]
        assert ask(ADDRESSES[name], headers=SHOP).status == 308
        assert ssl.get_server_certificate((ADDRESSES[name], 443)) in before[name]


def test_a_new_host_serves_at_once_and_has_its_certificate_later() -> None:
    """With one of the fleet's own, while the authority is away; and the authority is left alone for a while."""
    host, own = hosts_of_scenario()["acme-old"], trusting(SECRETS / "ca.crt")
    hosts_of_scenario()["acme-new"].run_expect([0], "systemctl stop pebble")
    try:
        host.run_expect([0], "rm -r /var/lib/wsgi.fleet/acme %s", PEM)
        for _attempt in range(2):
            done = apply_all(host)
            assert done.returncode == 2
            assert told(done).count(f"fatal: [acme-old]: FAILED! => changed: false msg: |- {NONE}") == 1
            assert "uacme: failed to fetch directory" in told(done)
            assert served("acme-old", own)["subjectAltName"] == tuple(("DNS", name) for name in NAMES)
            # Also when it has come back in the meantime.
            come_back()
        assert "CN=wsgi.fleet CA" in host.check_output("openssl x509 -in %s -noout -issuer -nameopt RFC2253", PEM)
    finally:
        come_back()
    # Who has removed the reason need not wait. The authority knows neither the account nor the names any more, and
    # asks the other load balancer for one of them.
    said = ended_well(apply_all(host, *RENEW))
    assert re.findall(r"changed=(\d+)", said) == ["1"]
    assert served("acme-old", pebble())["subjectAltName"] == tuple(("DNS", name) for name in NAMES)


def test_another_method_ends_the_renewals_and_leaves_what_there_is() -> None:
    host = hosts_of_scenario()["acme-old"]
    before = host.file(PEM).content_string
    variables = {
        "certificate_method": "self_signed",
        "certificate_host_names": NAMES,
        "certificate_directory": str(SECRETS),
        "certificate_group": "haproxy",
    }
    ended_well(apply_tasks(host, CERTIFICATE, "main", variables))
    assert host.file(PEM).content_string == (SECRETS / "site.pem").read_text()
    assert host.run("systemctl cat certificate-site.timer certificate-site.service").rc != 0
    assert host.run("systemctl is-active certificate-site.timer").stdout.strip() == "inactive"
    ended_well(apply_all(host))
    assert host.file(PEM).content_string == before
    assert ssl.get_server_certificate((ADDRESSES["acme-old"], 443)) in before
    assert host.check_output("systemctl is-active certificate-site.timer") == "active"
