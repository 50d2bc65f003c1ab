"""Certificates for a test: an authority, a server, a client, each in PEM files of a folder."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

import trustme


class Issued(NamedTuple):
    """The files of one certificate."""

    key: Path
    certificate: Path  # and those of who issued it


class Authority:
    """Who issues certificates, until the test is over."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self.path = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.path))

    def issue(self, identity: str, *others: str) -> Issued:
        """Issue a certificate: ``127.0.0.1`` for a server, ``a@example.org`` for a client."""
        leaf = self._ca.issue_cert(identity, *others)
        issued = Issued(self._folder / f"{identity}.key", self._folder / f"{identity}.pem")
        leaf.private_key_pem.write_to_path(str(issued.key))
        issued.certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        return issued

    def trusting(self, own: Issued | None = None) -> ssl.SSLContext:
        """Give what a client needs to trust this authority, and to show what it was issued."""
        context = ssl.create_default_context(cafile=self.path)
        if own is not None:
            context.load_cert_chain(own.certificate, own.key)
        return context


def endpoint(issued: Issued, port: int = 0) -> str:
    """Give the endpoint that serves with a certificate."""
    return f"ssl:{port}:interface=127.0.0.1:privateKey={issued.key}:certKey={issued.certificate}"
