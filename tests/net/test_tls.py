"""TLS contexts: what they ask for, and errors that name the file."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from gateway.core.errors import ConfigError
from gateway.net.tls import TlsOptions, server_context
from tests.rig.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize(
    ("wanted", "mode"),
    [("none", ssl.CERT_NONE), ("optional", ssl.CERT_OPTIONAL), ("required", ssl.CERT_REQUIRED)],
)
def test_client_certificates_are_asked_for_as_configured(authority: Authority, wanted: str, mode: int) -> None:
    certificate, key = authority.issue("localhost")
    context = server_context(
        TlsOptions(certificate=certificate, key=key, client_ca=authority.path, client_certificates=wanted)  # type: ignore[arg-type]
    )
    assert context.verify_mode == mode
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert not context.check_hostname


def test_a_missing_certificate_is_named(authority: Authority, tmp_path: Path) -> None:
    _, key = authority.issue("localhost")
    with pytest.raises(ConfigError, match=r"tls.certificate: cannot load .*missing.pem .*No such file"):
        server_context(TlsOptions(certificate=tmp_path / "missing.pem", key=key))


def test_a_key_of_another_certificate_is_named(authority: Authority) -> None:
    certificate, _ = authority.issue("localhost")
    _, other = authority.issue("other")
    with pytest.raises(ConfigError, match=r"tls.certificate: cannot load .*other-key.pem"):
        server_context(TlsOptions(certificate=certificate, key=other))


def test_a_file_that_holds_no_authority_is_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("localhost")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(ConfigError, match=r"tls.client_ca: cannot load .*empty.pem"):
        server_context(TlsOptions(certificate=certificate, key=key, client_ca=empty, client_certificates="required"))
