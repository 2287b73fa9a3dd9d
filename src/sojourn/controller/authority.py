"""The controller's own authority: it vouches for the controller and its nodes, so that nobody handles a certificate.

It is made on first use and stands in the database, with its key, so it goes along wherever the controller goes. Its
fingerprint stands in each token. Times are seconds since the epoch, and arguments.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psutil
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sojourn.database import Database
from sojourn.database import queries as ask
from sojourn.errors import Invalid
from sojourn.transport.tls import CONTROLLER, fingerprint, name_of, present, presenting

AUTHORITY_YEARS = 10
CERTIFICATE_DAYS = 90
RENEWED_AFTER_DAYS = 60
EARLY = timedelta(days=1)
"""So much the clocks of two machines may differ."""
_LONGEST_COMMON_NAME = 64


@dataclass(frozen=True)
class Authority:
    """A certificate and the key to it, both PEM."""

    certificate: str
    key: str

    @classmethod
    def new(cls, now: float) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _named(f"Sojourn authority {secrets.token_hex(4)}")
        begin = datetime.fromtimestamp(now, UTC)
        made = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(begin - EARLY)
            .not_valid_after(begin + timedelta(days=365 * AUTHORITY_YEARS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, SHA256())
        )
        return cls(_pem(made), _private(key))

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.certificate)

    def pinned(self, secret: str) -> str:
        """A token: the secret, and by whom its holder is to know this controller."""
        return f"{secret}.{self.fingerprint}"

    def certify(self, request: str, node: str, now: float) -> str:
        """A certificate for the key of this request (PKCS #10, PEM), with the node's name, whatever name it asks for.
        Raises Invalid."""
        try:
            asked = x509.load_pem_x509_csr(request.encode())
            if not asked.is_signature_valid:
                raise Invalid("A request for a certificate is not signed by its own key.")
            return self._issue(asked.public_key(), node, [x509.DNSName(name_of(node))], now)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as wrong:
            raise Invalid(f"That is no request for a certificate: {wrong}", "Update Sojourn on the node.") from wrong

    def chain(self, names: Iterable[str], now: float) -> str:
        """A new key and the controller's certificate for it, for these host names and addresses too."""
        key = ec.generate_private_key(ec.SECP256R1())
        also = [name for name in map(_general_name, sorted(names)) if name]
        issued = self._issue(key.public_key(), "Sojourn controller", [x509.DNSName(CONTROLLER), *also], now)
        return _private(key) + issued

    def _issue(self, key: CertificatePublicKeyTypes, subject: str, names: list[x509.GeneralName], now: float) -> str:
        """With the authority's own certificate behind it."""
        own, begin = x509.load_pem_x509_certificate(self.certificate.encode()), datetime.fromtimestamp(now, UTC)
        signing = load_pem_private_key(self.key.encode(), None)
        assert isinstance(signing, ec.EllipticCurvePrivateKey)
        made = (
            x509.CertificateBuilder(own.subject, _named(subject), key, x509.random_serial_number())
            .not_valid_before(begin - EARLY)
            .not_valid_after(begin + timedelta(days=CERTIFICATE_DAYS))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
            .sign(signing, SHA256())
        )
        return _pem(made) + self.certificate


class Shown:
    """What the controller's port shows: its certificate, and another one in time, or when it gets another name."""

    def __init__(self, authority: Authority, names: Callable[[], frozenset[str]], now: float) -> None:
        self._authority, self._names = authority, names
        self._named, self._until = names(), now + _RENEWED_AFTER_S
        self.context: ssl.SSLContext = presenting(authority.chain(self._named, now))

    def renew(self, now: float) -> bool:
        """If it is due; whether it was. Connections that there are go on."""
        names = self._names()
        if now < self._until and names == self._named:
            return False
        present(self.context, self._authority.chain(names, now))
        self._named, self._until = names, now + _RENEWED_AFTER_S
        return True


_RENEWED_AFTER_S = RENEWED_AFTER_DAYS * 86400.0


def kept(database: Database, now: float) -> Authority:
    """The one in the database, made if there is none."""
    with database.transaction(lasting=True) as connection:
        if found := ask.authority(connection):
            return Authority(*found)
        made = Authority.new(now)
        ask.add_authority(connection, made.certificate, made.key, now)
        return made


def own_names(more: Iterable[str] = ()) -> frozenset[str]:
    """What this machine is called, and its addresses."""
    addresses = (
        address.address.partition("%")[0]
        for interface in psutil.net_if_addrs().values()
        for address in interface
        if address.family in (socket.AF_INET, socket.AF_INET6)
    )
    return frozenset({"localhost", socket.gethostname(), socket.getfqdn(), *addresses, *more})


def _general_name(text: str) -> x509.GeneralName | None:
    """None for what a certificate can't hold."""
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(text))
    with suppress(ValueError):
        return x509.DNSName(text)
    return None


def _named(subject: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject[:_LONGEST_COMMON_NAME] or "?")])


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
