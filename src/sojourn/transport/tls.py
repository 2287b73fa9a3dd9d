"""TLS as Sojourn uses it: version 1.3, and one authority per controller, which vouches for it and its nodes.

Nobody is looked up by the address that was dialled, which may be an alias, a forwarded port, or a relay's: each
certificate names the controller, or one node, and whoever dials knows whom it wants. An authority is known by its
fingerprint, which stands behind the dot of each token that its controller hands out.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING

from sojourn.errors import Invalid

if TYPE_CHECKING:
    from typing import Any

CONTROLLER = "controller.sojourn.invalid"
"""The name in a controller's certificate. Nobody can register such a one."""
HANDSHAKE = b"\x16"
"""What every TLS connection begins with; HTTP begins with a letter, and what Sojourn says itself with a brace."""


def name_of(node: str) -> str:
    """The name in a node's certificate. A hash, because nodes may be called what no certificate can hold, and `a` is
    another node than `A`."""
    return f"{hashlib.sha256(node.encode()).hexdigest()[:48]}.node.sojourn.invalid"


def fingerprint(certificate: str) -> str:
    """The SHA-256 of a certificate (PEM), hexadecimal. Raises Invalid."""
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest()
    except ValueError as wrong:
        raise Invalid("That is no certificate.", "Is it a controller of Sojourn that answers there?") from wrong


def pin_of(token: str) -> str:
    """The fingerprint of the authority of the controller that a token is for; empty: it names none."""
    return token.partition(".")[2]


def secret_of(token: str) -> str:
    """What a token is known by, without the fingerprint."""
    return token.partition(".")[0]


class Trusting(ssl.SSLContext):
    """For who dials: trusts one authority alone, and expects one name, whatever address is dialled."""

    expected: str

    def wrap_socket(self, *given: Any, **named: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*given, **{**named, "server_hostname": self.expected})

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *_given: Any, **_named: Any) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_hostname=self.expected)


def trusting(authority: str, name: str) -> ssl.SSLContext:
    """`authority`: its certificate, PEM. `name`: CONTROLLER, or `name_of` a node. Raises Invalid."""
    context = Trusting(ssl.PROTOCOL_TLS_CLIENT)
    context.expected = name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=authority)
    except (ssl.SSLError, ValueError) as wrong:
        raise Invalid(f"That is no certificate of an authority: {wrong}.") from wrong
    return context


def presenting(chain: str) -> ssl.SSLContext:
    """For who is dialled. `chain`: private key and certificates, PEM; `present` replaces it. Raises ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # nobody dials so often that it would be worth the bytes
    present(context, chain)
    return context


def present(context: ssl.SSLContext, chain: str) -> None:
    """Show this from now on; connections that there are go on. Raises ssl.SSLError."""
    descriptor, path = tempfile.mkstemp(prefix="sojourn-", suffix=".pem")  # OpenSSL takes files alone; readable by us
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(chain)
        context.load_cert_chain(path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - no pathlib in what riders carry along
