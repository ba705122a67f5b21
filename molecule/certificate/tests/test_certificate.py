"""A certificate of the fleet's own or a provided one, and HAProxy that serves it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from fleet_testing import Load, apply_role, ask, hosts_of_scenario, refused
from testinfra.host import Host

CERTIFICATE, LOAD_BALANCER = "wsgi.fleet.certificate", "wsgi.fleet.load_balancer"
ADDRESSES = {"certificate-old": "172.31.78.55", "certificate-new": "172.31.78.56"}
SHOP = {"Host": "shop.example.com"}
PEM = "/etc/ssl/wsgi.fleet/site.pem"
SECRETS = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "secrets", "tls")


@pytest.fixture
def tls() -> ssl.SSLContext:
    """A client that trusts the fleet's authority and nobody else, and is as strict as Python can be."""
    context = ssl.create_default_context(cafile=SECRETS / "ca.crt")
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def connect(address: str, context: ssl.SSLContext, name: str = "shop.example.com") -> ssl.SSLSocket:
    """Make a connection, for which the certificate has to be good."""
    return context.wrap_socket(socket.create_connection((address, 443), timeout=10), server_hostname=name)


def served(address: str, context: ssl.SSLContext) -> bytes:
    """Return the certificate that is served, which has to be good."""
    with connect(address, context) as connection:
        return connection.getpeercert(binary_form=True) or b""


def since(host: Host) -> str:
    """Return the start of HAProxy's worker, which is another one after a reload."""
    return host.check_output("pgrep --oldest --parent $(systemctl show --property MainPID --value haproxy)")


def ended_well(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a run printed, which must have ended well."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PRIVATE KEY" not in done.stdout + done.stderr
    return done.stdout


def unchanged(done: subprocess.CompletedProcess[str]) -> bool:
    """Tell whether a run that ended well changed nothing on any host."""
    return re.findall(r"changed=(\d+)", ended_well(done)) == ["0", "0"]


@pytest.mark.parametrize("name", ["shop.example.com", "red.shop.example.com", ""])
def test_a_client_that_trusts_the_authority_is_served(address: str, tls: ssl.SSLContext, name: str) -> None:
    with connect(address, tls, name or address) as connection:
        peer: Any = connection.getpeercert()
    assert peer["subjectAltName"] == (
        ("DNS", "shop.example.com"),
        ("DNS", "*.shop.example.com"),
        ("IP Address", "172.31.78.55"),
        ("IP Address", "172.31.78.56"),
    )
    left = ssl.cert_time_to_seconds(peer["notAfter"]) - datetime.now(timezone.utc).timestamp()
    assert 89 < left / 86400 <= 90


def test_other_names_and_other_authorities_are_refused(address: str, tls: ssl.SSLContext) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(address, tls, "evil.example.com")
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        connect(address, ssl.create_default_context())


def test_curl_gets_an_answer_by_http_2(address: str) -> None:
    done = subprocess.run(
        [
            "curl", "--silent", "--show-error", "--cacert", SECRETS / "ca.crt", "--http2",
            "--resolve", f"shop.example.com:443:{address}", "--write-out", "\n%{http_version} %{http_code}",
            "https://shop.example.com/a?b=c",
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    body, _newline, said = done.stdout.rpartition("\n")
    assert said == "2 200", done.stderr
    assert json.loads(body)["path"] == "/a?b=c"


def test_many_streams_at_once(address: str) -> None:
    """h2load: 20 connections with ten requests under way on each, none of which fails."""
    done = subprocess.run(
        [
            "h2load", "--requests=3000", "--clients=20", "--max-concurrent-streams=10",
            f"--connect-to={address}:443", "https://shop.example.com/",
        ],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    print(done.stdout)
    assert "Application protocol: h2" in done.stdout
    assert "3000 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout
    assert "status codes: 3000 2xx, 0 3xx, 0 4xx, 0 5xx" in done.stdout


def test_the_application_learns_the_scheme(host: Host, address: str, tls: ssl.SSLContext) -> None:
    """Over TLS it is https, whatever a client says, and what a trusted proxy says counts."""
    lies = {**SHOP, "X-Forwarded-Proto": "http", "X-Forwarded-For": "203.0.113.9"}
    headers = json.loads(ask(address, port=443, headers=lies, tls=tls).body)["headers"]
    assert [value for name, value in headers if name == "x-forwarded-proto"] == ["https"]
    assert [value for name, value in headers if name == "x-forwarded-for"] == ["172.31.78.1"]
    script = (
        "import http.client as h, sys;"
        "c = h.HTTPConnection('127.0.0.1', 80, source_address=('127.0.0.99', 0));"
        "c.request('GET', '/', headers={'Host': 'shop.example.com', 'X-Forwarded-For': '203.0.113.9',"
        "'X-Forwarded-Proto': sys.argv[1]}); r = c.getresponse(); print(r.status, r.read().decode())"
    )
    status, _blank, body = host.check_output("python3 -c %s https", script).partition(" ")
    assert status == "200"
    assert ["x-forwarded-proto", "https"] in json.loads(body)["headers"]
    assert host.check_output("python3 -c %s http", script).startswith("308 ")


@pytest.mark.parametrize(
    ("method", "name", "path", "status", "location"),
    [
        ("GET", "shop.example.com", "/a?b=c", 308, "https://shop.example.com/a?b=c"),
        ("GET", "red.shop.example.com:80", "/", 308, "https://red.shop.example.com/"),
        ("POST", "shop.example.com", "/order", 308, "https://shop.example.com/order"),
        ("GET", "shop.example.com", "http://evil.example.com/x", 400, None),
        ("GET", "evil.example.com", "http://evil.example.com/x", 421, None),
        ("GET", "evil.example.com", "/", 421, None),
    ],
)
def test_plain_requests_are_sent_to_https(
    address: str, method: str, name: str, path: str, status: int, location: str | None
) -> None:
    answer = ask(address, path, method=method, headers={"Host": name})
    assert (answer.status, answer.headers.get("location")) == (status, location)
    # Browsers ignore it without TLS, and so nobody says it there.
    assert "strict-transport-security" not in answer.headers


def test_browsers_are_told_to_come_by_https(address: str, tls: ssl.SSLContext) -> None:
    """As much as was asked for, and also with answers that HAProxy gives itself."""
    for name, status in (("shop.example.com", 200), ("evil.example.com", 421)):
        answer = ask(address, port=443, headers={"Host": name}, tls=tls)
        assert answer.status == status
        assert answer.headers["strict-transport-security"] == "max-age=300"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_and_old_ciphers_are_refused(address: str, tls: ssl.SSLContext) -> None:
    tls.set_ciphers("ALL:@SECLEVEL=0")
    tls.minimum_version, tls.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        connect(address, tls)
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    for ciphers, accepted in (("ECDHE+AESGCM", True), ("ECDHE+CHACHA20", True), ("AES128-SHA:ECDHE+AES+SHA1", False)):
        tls.set_ciphers(ciphers)
        if accepted:
            with connect(address, tls) as connection:
                assert connection.version() == "TLSv1.2"
        else:
            with pytest.raises(ssl.SSLError):
                connect(address, tls)


def test_mozilla_would_be_content(address: str) -> None:
    """Sslyze, in an environment of its own, since it wants older libraries than Ansible brings."""
    tool = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    done = subprocess.run(
        [
            str(tool), "tool", "run", "--from", "sslyze==6.3.1", "sslyze", "--mozilla_config=intermediate",
            "--certinfo_ca_file", SECRETS / "ca.crt", f"shop.example.com:443{{{address}}}",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"UV_NATIVE_TLS": "1", **os.environ},
    )  # fmt: skip
    assert "shop.example.com:443: OK - Compliant" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0, done.stdout


def test_sessions_are_resumed_without_tickets(address: str, tls: ssl.SSLContext) -> None:
    """Most of the time: now and then HAProxy has not kept one, and more often on a busy machine."""
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    resumed = []
    for _number in range(20):
        with connect(address, tls) as first:
            session = first.session
        assert session is not None
        assert not session.has_ticket
        plain = socket.create_connection((address, 443), timeout=10)
        with tls.wrap_socket(plain, server_hostname="shop.example.com", session=session) as again:
            resumed.append(bool(again.session_reused))
    assert sum(resumed) >= 10


def test_files(host: Host) -> None:
    """The host has the certificate and its key, and nothing of the authority's key; nobody else can read it."""
    found = host.file(PEM)
    assert (found.user, found.group, found.mode) == ("root", "haproxy", 0o640)
    assert host.file("/etc/ssl/wsgi.fleet").mode == 0o755
    text = found.content_string
    assert [line for line in text.splitlines() if line.startswith("-----BEGIN")] == [
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN PRIVATE KEY-----",
    ]
    assert text == (SECRETS / "site.pem").read_text()


def test_files_on_the_controller() -> None:
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in SECRETS.iterdir()} == {
        "authority.pem": 0o600,
        "ca.crt": 0o644,
        "site.pem": 0o600,
    }
    assert stat.S_IMODE(SECRETS.stat().st_mode) == 0o700
    assert "PRIVATE KEY" not in (SECRETS / "ca.crt").read_text()


class Curl(threading.Thread):
    """Sends POSTs by HTTP/2, several at a time on one connection, until it is told to stop; nothing is repeated."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.answers: Counter[str] = Counter()
        self.stop = threading.Event()
        self._command = [
            "curl", "--silent", "--http2", "--parallel", "--parallel-max", "3", "--cacert", str(SECRETS / "ca.crt"),
            "--data", "x", "--output", "/dev/null", "--write-out", "%{http_version} %{http_code} %{errormsg}\n",
            f"https://{address}/?[1-200]",
        ]  # fmt: skip

    def run(self) -> None:
        while not self.stop.is_set():
            done = subprocess.run(self._command, capture_output=True, text=True, check=False)
            self.answers.update(line.strip() for line in done.stdout.splitlines())


def test_a_run_without_a_change_neither_writes_nor_reloads() -> None:
    workers = {name: since(host) for name, host in hosts_of_scenario().items()}
    for role in (CERTIFICATE, LOAD_BALANCER):
        assert unchanged(apply_role("certificate", role, {}, "--diff"))
    assert {name: since(host) for name, host in hosts_of_scenario().items()} == workers


def test_a_new_certificate_goes_live_without_a_lost_request(tls: ssl.SSLContext) -> None:
    """Under load, on new and on kept connections; HAProxy is reloaded once for it, and then serves it."""
    hosts = hosts_of_scenario()

    def state() -> dict[str, tuple[bytes, str]]:
        return {name: (served(ADDRESSES[name], tls), since(host)) for name, host in hosts.items()}

    before = state()
    loads = [Load(address, port=443, headers=SHOP, tls=tls, rate=50) for address in ADDRESSES.values()]
    curls = [Curl(address) for address in ADDRESSES.values()]
    with contextlib.ExitStack() as running:
        for load, curl in zip(loads, curls, strict=True):
            running.enter_context(load)
            curl.start()
            running.callback(curl.join)
            running.callback(curl.stop.set)
        said = ended_well(apply_role("certificate", CERTIFICATE, {"certificate_renew": True}, "--diff"))
        assert "+sha256: " in said
        # Written, and not in service.
        kept = (SECRETS / "site.pem").read_text()
        assert {host.file(PEM).content_string for host in hosts.values()} == {kept}
        assert state() == before
        ended_well(apply_role("certificate", LOAD_BALANCER, {}))
        after = state()
        time.sleep(2)
    assert [load.failures for load in loads] == [[], []]
    assert min(load.requests for load in loads) > 200
    assert [set(curl.answers) for curl in curls] == [{"2 200"}, {"2 200"}]
    assert min(curl.answers["2 200"] for curl in curls) > 200
    new = ssl.PEM_cert_to_DER_cert(kept.partition("-----BEGIN PRIVATE")[0])
    assert {certificate for certificate, _worker in after.values()} == {new}
    assert new not in {certificate for certificate, _worker in before.values()}
    assert all(after[name][1] != before[name][1] for name in hosts)


def provide(directory: Path, names: list[str], days: int = 60, ago: int = 0) -> dict[str, str]:
    """Have somebody else issue a certificate, with an RSA key; return the variables of the role."""
    start = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(days=ago)
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Somebody")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "shop.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "shop.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return {
        "certificate_method": "provided",
        "certificate_file": str(directory / "shop.crt"),
        "certificate_key_file": str(directory / "shop.key"),
    }


def test_a_provided_certificate_takes_over_and_gives_way_again(tmp_path: Path) -> None:
    def certificates() -> set[str]:
        return {ssl.get_server_certificate((address, 443)).strip() for address in ADDRESSES.values()}

    variables = provide(tmp_path, ["shop.example.com", "*.shop.example.com"])
    try:
        ended_well(apply_role("certificate", CERTIFICATE, variables, "--diff"))
        ended_well(apply_role("certificate", LOAD_BALANCER, {}))
        assert certificates() == {(tmp_path / "shop.crt").read_text().strip()}
        # From a vault it is the same.
        texts = {
            "certificate_method": "provided",
            "certificate_text": (tmp_path / "shop.crt").read_text(),
            "certificate_key_text": (tmp_path / "shop.key").read_text(),
        }
        assert unchanged(apply_role("certificate", CERTIFICATE, texts))
    finally:
        for role in (CERTIFICATE, LOAD_BALANCER):
            ended_well(apply_role("certificate", role, {}))
    (own,) = certificates()
    assert own in (SECRETS / "site.pem").read_text()


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("expired", "shop.crt was valid until"),
        ("key", "shop.key is not the key of"),
        ("unset", "certificate_file: is not set: write a path on the controller"),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_is_touched(
    tls: ssl.SSLContext, tmp_path: Path, case: str, said: str
) -> None:
    names = ["shop.example.com", "*.shop.example.com"]
    variables = provide(tmp_path, names, *((30, 31) if case == "expired" else ()))
    if case == "key":
        (tmp_path / "other").mkdir()
        variables["certificate_key_file"] = provide(tmp_path / "other", names)["certificate_key_file"]
    elif case == "unset":
        variables["certificate_file"] = ""
    message = refused("certificate", CERTIFICATE, variables)
    assert said in message
    assert "PRIVATE KEY-----" not in message
    assert {host.file(PEM).content_string for host in hosts_of_scenario().values()} == {
        (SECRETS / "site.pem").read_text()
    }
    for address in ADDRESSES.values():
        assert ask(address, port=443, headers=SHOP, tls=tls).status == 200


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"certificate_method": "letsencrypt"}, "must be one of: self_signed, provided, acme"),
        ({"certificate_method": "acme"}, "certificate_host_names: 'shop.example.com' is no name that a public"),
        ({"certificate_path": "site.pem"}, "certificate_path: 'site.pem' is not the absolute path"),
        ({"certificate_days": 900}, "certificate_days: 900 is out of range; write 3 to 398"),
    ],
)
def test_settings_that_cannot_work_are_refused(variables: dict[str, Any], said: str) -> None:
    assert said in refused("certificate", CERTIFICATE, variables)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"load_balancer_certificate": "/etc/ssl/nothing.pem"}, "/etc/ssl/nothing.pem is not on this host"),
        ({"load_balancer_tls_port": 80}, "load_balancer_tls_port: 80 is load_balancer_port or"),
        ({"load_balancer_tls": False}, "load_balancer_hsts_max_age: 300 asks browsers for HTTPS"),
        ({"load_balancer_tls_profile": "old"}, "must be one of: intermediate, modern"),
    ],
)
def test_tls_that_cannot_work_is_refused(variables: dict[str, Any], said: str) -> None:
    assert said in refused("certificate", LOAD_BALANCER, variables)
