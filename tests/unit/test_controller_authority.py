"""The controller's authority: what it certifies, for whom, and for how long. Time is an argument."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509

from sojourn.agent.identity import Identity
from sojourn.controller.authority import Authority, Shown, kept
from sojourn.database import Database, sqlite_url
from sojourn.errors import Invalid
from sojourn.transport.tls import CONTROLLER, fingerprint, name_of, pin_of, secret_of

NOW = 1_800_000_000.0
DAY = 86400.0


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new(NOW)


def certificates(chain: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(chain.encode())


def names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_it_is_made_once_and_goes_along_with_the_database(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path / "db"))
    made = kept(database, NOW)
    assert kept(database, NOW + DAY) == made
    database.close()
    database = Database(sqlite_url(tmp_path / "db"))
    assert kept(database, NOW).fingerprint == made.fingerprint
    database.close()


def test_it_lasts_ten_years_and_signs_nothing_but_ends(authority: Authority) -> None:
    (own,) = certificates(authority.certificate)
    assert own.not_valid_after_utc.timestamp() - NOW == pytest.approx(3650 * DAY)
    constraints = own.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


def test_a_node_gets_its_own_name_whatever_it_asks_for(authority: Authority, tmp_path: Path) -> None:
    asked = Identity(tmp_path / "node.json", "token").request()
    issued, above = certificates(authority.certify(asked, "Büro/1", NOW))
    assert names(issued).get_values_for_type(x509.DNSName) == [name_of("Büro/1")]
    assert not issued.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    issued.verify_directly_issued_by(above)
    assert issued.not_valid_after_utc.timestamp() == NOW + 90 * DAY


def test_nodes_that_are_called_alike_are_not_the_same() -> None:
    assert len({name_of("a"), name_of("A"), name_of("a.b"), name_of("")}) == 4
    assert max(len(label) for label in name_of("x" * 300).split(".")) < 64


@pytest.mark.parametrize("nonsense", ["", "hello", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END"])
def test_nonsense_is_not_certified(authority: Authority, nonsense: str) -> None:
    with pytest.raises(Invalid, match="no request for a certificate"):
        authority.certify(nonsense, "n", NOW)


def test_the_controller_s_own_names_its_machine_too(authority: Authority) -> None:
    issued = certificates(authority.chain({"gpu1.example", "10.0.0.5", "::1", "no name ü"}, NOW))[0]
    assert set(names(issued).get_values_for_type(x509.DNSName)) == {CONTROLLER, "gpu1.example"}
    assert {str(one) for one in names(issued).get_values_for_type(x509.IPAddress)} == {"10.0.0.5", "::1"}


def test_it_shows_another_certificate_in_time_and_when_its_machine_has_another_address(authority: Authority) -> None:
    called = {"a"}
    shown = Shown(authority, lambda: frozenset(called), NOW)
    context = shown.context
    assert not shown.renew(NOW + 59 * DAY)
    assert shown.renew(NOW + 61 * DAY)
    assert not shown.renew(NOW + 62 * DAY)
    called.add("10.0.0.9")
    assert shown.renew(NOW + 62 * DAY)
    assert shown.context is context  # which the port holds


def test_a_token_carries_the_fingerprint(authority: Authority) -> None:
    token = authority.pinned("sojourn_join_x-y_z")
    assert (secret_of(token), pin_of(token)) == ("sojourn_join_x-y_z", authority.fingerprint)
    assert (secret_of("old"), pin_of("old")) == ("old", "")
    assert fingerprint(authority.certificate) == authority.fingerprint
    with pytest.raises(Invalid):
        fingerprint("<html>")


def test_a_node_s_key_is_another_one_each_time_and_its_certificate_is_kept(
    authority: Authority, tmp_path: Path
) -> None:
    from sojourn.wire import Welcome

    def welcomed(identity: Identity, certificate: str) -> None:
        who = {"node": "n", "token": "t", "key": "00", "heartbeat_seconds": 1.0}
        identity.keep(Welcome(**who, certificate=certificate, authority=authority.certificate if certificate else ""))

    identity = Identity(tmp_path / "node.json", authority.pinned("token"))
    first, second = identity.request(), identity.request()
    assert first != second
    with pytest.raises(ssl.SSLError):
        welcomed(identity, authority.certify(first, "n", NOW))  # for a key that is gone
    welcomed(identity, authority.certify(second, "n", NOW))
    again = Identity.load(tmp_path / "node.json", "")
    assert (again.chain, again.pin) == (identity.chain, authority.fingerprint)
    assert again.seal
    assert not again.is_due(NOW + 59 * DAY)
    assert again.is_due(NOW + 61 * DAY)
    assert (tmp_path / "node.json").stat().st_mode & 0o077 == 0

    welcomed(again, "")  # the controller speaks plain now
    assert (again.seal, again.chain, again.is_due(NOW + 61 * DAY)) == (None, "", False)
