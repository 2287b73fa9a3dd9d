"""Who a node is: what it shows its controller, how it knows that one, and what it shows to those who dial it."""

from __future__ import annotations

import json
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sojourn.client.trust import sealing, trust
from sojourn.settings import write_private
from sojourn.transport.tls import pin_of, present, presenting
from sojourn.wire import Welcome


@dataclass
class Identity:
    """What a node shows the controller: its own token once it has one, the join token until then; and the certificate
    that it got for that. The private key is made anew for each certificate and never leaves this machine."""

    path: Path
    join_token: str
    token: str = ""
    key: str = ""
    """Signs the tickets shown at this node's data port; hexadecimal."""
    authority: str = ""
    """Who vouches for the controller and its nodes: a certificate, PEM. Empty: nobody does, and nothing is sealed."""
    chain: str = ""
    """The node's private key and certificate, PEM."""
    pin: str = ""
    """The fingerprint of the authority that is trusted at an https address, as the join token named it; empty: the
    system's are."""
    laid_off: bool = False
    seal: ssl.SSLContext | None = None
    """Shown to those who dial this node."""
    _new_key: str = ""

    def __post_init__(self) -> None:
        self.pin = pin_of(self.join_token) or self.pin

    @classmethod
    def load(cls, path: Path, join_token: str) -> Identity:
        try:
            kept: dict[str, Any] = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return cls(path, join_token)
        later = {name: kept.get(name, "") for name in ("authority", "chain", "pin")}
        known = cls(path, join_token, kept["token"], kept["key"], **later)
        with suppress(ssl.SSLError):  # the controller gives another one
            known._show()
        return known

    def keep(self, welcome: Welcome) -> None:
        self.token, self.key, self.laid_off = welcome.token, welcome.key, False
        self.authority = welcome.authority
        self.chain = self._new_key + welcome.certificate if welcome.certificate else ""
        sealing = {"authority": self.authority, "chain": self.chain, "pin": self.pin}
        write_private(self.path, {"node": welcome.node, "token": self.token, "key": self.key, **sealing})
        self._show()

    # ── towards the controller ───────────────────────────────────────────────────────────────────────────────

    def sealing(self, url: str) -> dict[str, Any]:
        """How a line to the controller is sealed, as `websockets` wants it; may have to ask there whom to trust. Raises
        Unauthorized, Unreachable."""
        return sealing(trust(url, self.pin, self.path.parent / "authorities"))

    def lay_off(self) -> bool:
        """Show the join token instead of the node's own, which is not known where it was shown; False if that has been
        tried, or there are not two. The next address may well know it: `take_up`."""
        first, self.laid_off = not self.laid_off, True
        return bool(first and self.token and self.join_token)

    def take_up(self) -> None:
        self.laid_off = False

    @property
    def bearer(self) -> str:
        return (self.join_token if self.laid_off else "") or self.token or self.join_token

    # ── towards those who dial ───────────────────────────────────────────────────────────────────────────────

    def request(self) -> str:
        """For a new certificate, with a new key: PEM. What name it gets is the controller's to say."""
        key = ec.generate_private_key(ec.SECP256R1())
        self._new_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
        return asked.public_bytes(Encoding.PEM).decode()

    def is_due(self, now: float) -> bool:
        """Whether a new certificate should be asked for: two thirds of the life of the present one are over."""
        if not self.chain:
            return False
        certificate = x509.load_pem_x509_certificates(self.chain.encode())[0]
        begun, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        return now > begun + (ends - begun) * 2 / 3

    def _show(self) -> None:
        if not self.chain:
            self.seal = None
        elif self.seal is None:
            self.seal = presenting(self.chain)
        else:
            present(self.seal, self.chain)
