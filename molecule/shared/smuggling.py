"""Requests that two programs could read differently, one of which a client could so hide in another.

RFC 9112, sections 2.2, 3.2, 5.1, 6.1 and 11.2, says what a server has to do with each: refuse it. A web server or load
balancer that passes one on leaves it to the application to disagree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fleet_testing import ask_raw

#: What would be hidden; it has to reach nobody.
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: shop.example.com\r\n\r\n"


def request(*headers: bytes, line: bytes = b"POST / HTTP/1.1", host: bytes = b"shop.example.com") -> bytes:
    """Return the head of a request."""
    return b"\r\n".join([line, *([b"Host: " + host] if host else []), *headers, b"", b""])


def chunked(body: bytes, *headers: bytes) -> bytes:
    """Return a request with a body in chunks, whatever these are."""
    return request(b"Transfer-Encoding: chunked", *headers) + body


#: By name.
CASES: Mapping[str, bytes] = {
    "two lengths": request(b"Content-Length: 0", b"Content-Length: %d" % len(HIDDEN)) + HIDDEN,
    "two lengths in one": request(b"Content-Length: 0, %d" % len(HIDDEN)) + HIDDEN,
    "a length with a sign": request(b"Content-Length: +%d" % len(HIDDEN)) + HIDDEN,
    "a negative length": request(b"Content-Length: -1") + HIDDEN,
    "a length in hexadecimal": request(b"Content-Length: 0x10") + HIDDEN,
    "a length with a blank inside": request(b"Content-Length: 1 0") + HIDDEN,
    "an empty length": request(b"Content-Length:") + HIDDEN,
    "a length beyond all numbers": request(b"Content-Length: 18446744073709551616") + HIDDEN,
    "a blank before the colon": request(b"Content-Length : %d" % len(HIDDEN)) + HIDDEN,
    "a coding with a blank before the colon": request(b"Transfer-Encoding : chunked") + b"0\r\n\r\n" + HIDDEN,
    "an unknown coding": request(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n" + HIDDEN,
    "a coding after chunked": request(b"Transfer-Encoding: chunked, identity") + b"0\r\n\r\n" + HIDDEN,
    "chunked twice": request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + HIDDEN,
    "a vertical tab in the coding": request(b"Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n" + HIDDEN,
    "a chunk that is no number": chunked(b"zz\r\nabc\r\n0\r\n\r\n") + HIDDEN,
    "a chunk with a sign": chunked(b"+3\r\nabc\r\n0\r\n\r\n") + HIDDEN,
    "a negative chunk": chunked(b"-3\r\nabc\r\n0\r\n\r\n") + HIDDEN,
    "a chunk in hexadecimal with its prefix": chunked(b"0x3\r\nabc\r\n0\r\n\r\n") + HIDDEN,
    "a chunk beyond all numbers": chunked(b"10000000000000003\r\nabc\r\n0\r\n\r\n") + HIDDEN,
    "a chunk longer than it says": chunked(b"3\r\nabcdef\r\n0\r\n\r\n") + HIDDEN,
    "a line that goes on": request(b"X-One: a", b" Transfer-Encoding: chunked") + b"0\r\n\r\n" + HIDDEN,
    "a header without a name": request(b": chunked"),
    "a header with a NUL in its name": request(b"X-\x00One: a"),
    "a header with a NUL in its value": request(b"X-One: a\x00b"),
    "a carriage return in a value": request(b"X-One: a\rTransfer-Encoding: chunked") + b"0\r\n\r\n" + HIDDEN,
    "no host": request(b"Content-Length: 0", host=b""),
    "two hosts": request(b"Host: evil.example.com", b"Content-Length: 0"),
    "a host with a path": request(b"Content-Length: 0", host=b"shop.example.com/x"),
    "a host with a user": request(b"Content-Length: 0", host=b"evil@shop.example.com"),
    "a request line with a tab": request(b"Content-Length: 0", line=b"POST\t/ HTTP/1.1"),
    "a version that there is not": request(b"Content-Length: 0", line=b"POST / HTTP/1.9x"),
    "a target with a NUL": request(b"Content-Length: 0", line=b"POST /\x00 HTTP/1.1"),
    "a method with a colon": request(b"Content-Length: 0", line=b"PO:ST / HTTP/1.1"),
}


def answers(address: str) -> dict[str, list[int]]:
    """Send each, and return the statuses of all answers to it by its name."""
    return {
        name: [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3}) ", ask_raw(address, data, timeout=1))]
        for name, data in CASES.items()
    }
