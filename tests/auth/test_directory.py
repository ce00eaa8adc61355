"""Logins against a real OpenLDAP, which the tests start on a port of their own."""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gateway.auth.directory import ByDirectory, DirectoryOptions, GroupSearch
from gateway.auth.pool import CheckPool
from gateway.core.auth import Credentials, Identity
from gateway.core.errors import Refused
from tests.rig.certificates import Authority
from tests.rig.processes import accepts, free_port
from tests.rig.waiting import wait_for

SLAPD = shutil.which("slapd", path="/usr/sbin:/usr/lib/openldap:/usr/bin")
needs_slapd = pytest.mark.skipif(SLAPD is None, reason="slapd is not installed; .ci/run installs it")

CONFIG = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile {folder}/slapd.pid
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCertificateFile {certificate}
TLSCertificateKeyFile {key}
database mdb
suffix "dc=example,dc=org"
directory {folder}/data
maxsize 10485760
rootdn "cn=root,dc=example,dc=org"
rootpw root-secret
"""

ENTRIES = """\
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example,dc=org
objectClass: organizationalUnit
ou: groups

dn: uid=ann,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: ann
cn: Ann
sn: Example
userPassword: correct horse

dn: uid=bob,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: bob
cn: Bob
sn: Example
userPassword: battery staple

dn: cn=ops,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: ops
member: uid=ann,ou=people,dc=example,dc=org

dn: cn=hall,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: hall
member: uid=ann,ou=people,dc=example,dc=org
member: uid=bob,ou=people,dc=example,dc=org
"""


@dataclass(frozen=True)
class Directory:
    port: int
    tls_port: int
    authority: Path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directory]:
    folder = tmp_path_factory.mktemp("ldap")
    (folder / "data").mkdir()
    authority = Authority(folder)
    certificate, key = authority.issue("localhost")
    config = folder / "slapd.conf"
    config.write_text(CONFIG.format(folder=folder, certificate=certificate, key=key))
    entries = folder / "entries.ldif"
    entries.write_text(ENTRIES)
    assert SLAPD is not None
    subprocess.run([SLAPD, "-Tadd", "-f", str(config), "-l", str(entries)], check=True, capture_output=True)
    served = Directory(free_port(), free_port(), authority.path)
    urls = f"ldap://localhost:{served.port} ldaps://localhost:{served.tls_port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([SLAPD, "-d", "0", "-f", str(config), "-h", urls], stdout=log, stderr=log)
    try:
        wait_for(lambda: accepts(served.port) and accepts(served.tls_port), "slapd listens", 20)
        yield served
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def options(directory: Directory) -> DirectoryOptions:
    return DirectoryOptions(
        host="localhost",
        port=directory.port,
        tls=False,
        starttls=False,
        user_dn="uid={user},ou=people,dc=example,dc=org",
        ca=directory.authority,
        groups=GroupSearch(base="ou=groups,dc=example,dc=org"),
    )


def login(user: str, password: bytes) -> Credentials:
    return Credentials(protocol="mqtt", username=user, password=password)


ANN = Identity(user="ann", groups=("hall", "ops"))


def ordered(identity: Identity | None) -> Identity | None:
    return None if identity is None else replace(identity, groups=tuple(sorted(identity.groups)))


@needs_slapd
@pytest.mark.parametrize("protection", ["plain", "starttls", "ldaps"])
async def test_a_right_password(
    protection: str, options: DirectoryOptions, directory: Directory, pool: CheckPool
) -> None:
    options = replace(options, starttls=protection == "starttls", tls=protection == "ldaps")
    if options.tls:
        options = replace(options, port=directory.tls_port)
    way = ByDirectory(options, pool)
    assert ordered(await way.identify(login("ann", b"correct horse"))) == ANN
    assert ordered(await way.identify(login("ANN", b"correct horse"))) == ANN
    assert await way.identify(login("ann", b"wrong")) is None


@needs_slapd
@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("ann", b"battery staple"),
        ("ann", b""),
        ("ann", b"correct horse\0"),
        ("ann", b"\xff"),
        ("ann", b"x" * 5_000),
        ("nobody", b"correct horse"),
        ("", b"correct horse"),
        ("ann ", b"correct horse"),
        (" ann", b"correct horse"),
        ("*", b"correct horse"),
        ("ann,ou=people,dc=example,dc=org", b"correct horse"),
        ("ann+cn=Ann", b"correct horse"),
        ("a\\6en", b"correct horse"),
        ("ánn", b"correct horse"),
        ("x" * 10_000, b"correct horse"),
    ],
    ids=range(15),
)
async def test_wrong_ones(user: str, password: bytes, options: DirectoryOptions, pool: CheckPool) -> None:
    assert await ByDirectory(options, pool).identify(login(user, password)) is None


@needs_slapd
async def test_without_groups(options: DirectoryOptions, pool: CheckPool) -> None:
    way = ByDirectory(replace(options, groups=None), pool)
    assert await way.identify(login("bob", b"battery staple")) == Identity(user="bob")


@needs_slapd
async def test_groups_by_another_filter(options: DirectoryOptions, pool: CheckPool) -> None:
    search = GroupSearch(base="ou=groups,dc=example,dc=org", filter="(&(cn=ops)(member={dn}))", attribute="cn")
    way = ByDirectory(replace(options, groups=search), pool)
    assert await way.identify(login("ann", b"correct horse")) == Identity(user="ann", groups=("ops",))
    assert await way.identify(login("bob", b"battery staple")) == Identity(user="bob")


@needs_slapd
async def test_a_search_that_the_directory_refuses(
    options: DirectoryOptions, pool: CheckPool, logged: io.StringIO
) -> None:
    way = ByDirectory(replace(options, groups=GroupSearch(base="ou=absent,dc=example,dc=org")), pool)
    assert await way.identify(login("ann", b"correct horse")) is None
    assert "noSuchObject" in logged.getvalue()
    assert "correct horse" not in logged.getvalue()


@needs_slapd
@pytest.mark.parametrize("change", [{"ca": None}, {"host": "127.0.0.1"}], ids=["unknown authority", "another name"])
@pytest.mark.parametrize("starttls", [True, False], ids=["starttls", "ldaps"])
async def test_a_directory_that_cannot_prove_who_it_is_gets_no_password(
    change: dict[str, object], starttls: bool, options: DirectoryOptions, directory: Directory, pool: CheckPool
) -> None:
    port = directory.port if starttls else directory.tls_port
    options = replace(options, starttls=starttls, tls=not starttls, port=port, **change)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="does not answer"):
        await ByDirectory(options, pool).identify(login("ann", b"correct horse"))


def nowhere(port: int) -> DirectoryOptions:
    return DirectoryOptions(
        host="127.0.0.1", port=port, tls=False, starttls=False, user_dn="uid={user},dc=x", timeout=0.5
    )


async def test_a_directory_that_is_not_there(pool: CheckPool, logged: io.StringIO) -> None:
    with pytest.raises(Refused, match="does not answer"):
        await ByDirectory(nowhere(free_port()), pool).identify(login("ann", b"s3cret"))
    assert '"directory_does_not_answer"' in logged.getvalue()
    assert "s3cret" not in logged.getvalue()


async def test_a_directory_that_never_answers(pool: CheckPool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(Refused):
            await ByDirectory(nowhere(silent.getsockname()[1]), pool).identify(login("ann", b"x"))
        assert time.monotonic() - started < 10
