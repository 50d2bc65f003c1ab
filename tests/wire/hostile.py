"""Lines that no well-meaning client sends; each gets one BAD_REQUEST."""

from __future__ import annotations

from typing import Final

HOSTILE: Final[dict[str, bytes]] = {
    "no JSON": b"hello",
    "cut short": b'{"v":1,"id":"a","type":"ping"',
    "trailing characters": b'{"v":1,"id":"a","type":"ping"} x',
    "two documents": b'{"v":1,"id":"a","type":"ping"}{"v":1,"id":"b","type":"ping"}',
    "single quotes": b"{'v':1,'id':'a','type':'ping'}",
    "a comment": b'{"v":1,"id":"a","type":"ping"/**/}',
    "a trailing comma": b'{"v":1,"id":"a","type":"ping",}',
    "an array": b"[]",
    "null": b"null",
    "a number": b"1",
    "a string": b'"ping"',
    "deep arrays": b"[" * 60_000,
    "deep arrays, closed": b"[" * 30_000 + b"]" * 30_000,
    "deep objects": b'{"a":' * 12_000 + b"1" + b"}" * 12_000,
    "deep in a field nobody knows": b'{"v":1,"id":"a","type":"ping","x":'
    + b"[" * 30_000
    + b"]" * 30_000
    + b"}",
    "a huge integer": b'{"v":1,"id":"a","type":"ping","x":' + b"9" * 60_000 + b"}",
    "a huge exponent": b'{"v":1,"id":"a","type":"ping","x":1e999999}',
    "a huge version": b'{"v":' + b"9" * 400 + b',"id":"a","type":"ping"}',
    "NaN": b'{"v":1,"id":"a","type":"ping","x":NaN}',
    "NaN as version": b'{"v":NaN,"id":"a","type":"ping"}',
    "Infinity": b'{"v":1,"id":"a","type":"ping","x":-Infinity}',
    "invalid UTF-8": b'{"v":1,"id":"a\xff","type":"ping"}',
    "invalid UTF-8 in a field nobody knows": b'{"v":1,"id":"a","type":"ping","x":"\xc3"}',
    "invalid UTF-8 in a key": b'{"v":1,"id":"a","type":"ping","\xff":1}',
    "an overlong form of UTF-8": b'{"v":1,"id":"\xc0\xaf","type":"ping"}',
    "a surrogate in UTF-8": b'{"v":1,"id":"\xed\xa0\x80","type":"ping"}',
    "a lone surrogate": b'{"v":1,"id":"\\ud800","type":"ping"}',
    "a lone low surrogate": b'{"v":1,"id":"\\udc00","type":"ping"}',
    "surrogates the wrong way round": b'{"v":1,"id":"a","type":"ping","x":"\\udc00\\ud800"}',
    "a BOM": b'\xef\xbb\xbf{"v":1,"id":"a","type":"ping"}',
    "UTF-16": '{"v":1,"id":"a","type":"ping"}'.encode("utf-16"),
    "UTF-16 without a BOM": '{"v":1,"id":"a","type":"ping"}'.encode("utf-16-le"),
    "UTF-32": '{"v":1,"id":"a","type":"ping"}'.encode("utf-32"),
    "a NUL": b"\0",
    "NULs around": b'\0{"v":1,"id":"a","type":"ping"}\0',
    "a NUL in a string": b'{"v":1,"id":"a\0b","type":"ping"}',
    "a control character in a string": b'{"v":1,"id":"a\tb","type":"ping"}',
    "format fields": b"{log_source} {0.__class__} %s %(x)s {",
    "an HTTP request": b"GET / HTTP/1.1",
    "a TLS handshake": bytes.fromhex("1603010200010001fc0303"),
}
