"""The signer against botocore's, over generated requests."""

from __future__ import annotations

import datetime
import re
from unittest import mock

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from adapters.aws.sigv4 import Keys, Signer, canonical_path, signing_key

FORM = "application/x-www-form-urlencoded; charset=utf-8"
CONTENT_TYPE = "application/x-amz-json-1.0"

printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
keys = st.builds(Keys, printable, printable, st.none() | printable)
hosts = st.sampled_from(["sqs.eu-west-1.amazonaws.com", "localhost:4566", "127.0.0.1:8443", "[::1]:4566", "10.0.0.1"])
segments = st.text(st.sampled_from("abcXYZ019-_.~%+=:@!$&'()*,;"), max_size=8)
paths = st.just("/") | st.lists(segments, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))
bodies = st.binary(max_size=300) | st.text(max_size=100).map(str.encode)
times = st.integers(min_value=946_684_800, max_value=4_102_444_800)


def headers_of(head: bytes) -> dict[str, str]:
    lines = head.decode().split("\r\n")
    assert lines[-2:] == ["", ""]
    return dict(line.split(": ", 1) for line in lines[1:-2])


def botocore_authorization(head: bytes, url: str, body: bytes, keys: Keys, region: str, now: int) -> str:
    """What botocore's signer makes of the same headers."""
    headers = headers_of(head)
    signed = ("content-type", "x-amz-target")
    given = {name: headers[name] for name in signed if name in headers}
    request = AWSRequest(method="POST", url=url, data=body, headers=given)
    signer = SigV4Auth(Credentials(keys.access_key, keys.secret_key, keys.token), "sqs", region)
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment):
        signer.add_auth(request)
    assert headers["x-amz-date"] == request.headers["X-Amz-Date"]
    assert headers.get("x-amz-security-token") == request.headers["X-Amz-Security-Token"]
    return str(request.headers["Authorization"])


@given(keys=keys, host=hosts, path=paths, body=bodies, now=times, region=st.sampled_from(["eu-west-1", "cn-north-1"]))
def test_agrees_with_botocore(keys: Keys, host: str, path: str, body: bytes, now: int, region: str) -> None:
    signer = Signer(service="sqs", region=region, host=host, path=path, content_type=CONTENT_TYPE)
    head = signer.head(keys, b"AmazonSQS.SendMessage", body, now + 0.25)
    expected = botocore_authorization(head, f"http://{host}{path}", body, keys, region, now)
    assert headers_of(head)["authorization"] == expected
    assert headers_of(head)["content-length"] == str(len(body))
    assert headers_of(head)["host"] == host
    assert head.startswith(f"POST {path} HTTP/1.1\r\n".encode())


@given(keys=keys, host=hosts, body=bodies, now=times)
def test_agrees_with_botocore_without_a_target(keys: Keys, host: str, body: bytes, now: int) -> None:
    """The query protocol names its action in the body."""
    signer = Signer(service="sqs", region="eu-west-1", host=host, content_type=FORM, targeted=False)
    head = signer.head(keys, b"", body, now)
    assert "x-amz-target" not in headers_of(head)
    expected = botocore_authorization(head, f"http://{host}/", body, keys, "eu-west-1", now)
    assert headers_of(head)["authorization"] == expected


@given(steps=st.lists(st.tuples(keys, st.integers(0, 200_000)), min_size=2, max_size=6), body=bodies)
def test_one_signer_follows_the_clock_and_the_keys(steps: list[tuple[Keys, int]], body: bytes) -> None:
    """What a signer keeps from earlier requests never shows in later ones."""
    host = "sqs.eu-west-1.amazonaws.com"
    signer = Signer(service="sqs", region="eu-west-1", host=host, content_type=CONTENT_TYPE)
    now = 1_790_000_000
    for keys_now, later in [*steps, steps[0]]:
        now += later
        head = signer.head(keys_now, b"AmazonSQS.ReceiveMessage", body, now)
        expected = botocore_authorization(head, f"https://{host}/", body, keys_now, "eu-west-1", now)
        assert headers_of(head)["authorization"] == expected


def test_signing_key_of_the_documentation() -> None:
    """AWS General Reference, "Deriving the signing key": 20150830, us-east-1, iam."""
    key = signing_key("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", b"20150830", "us-east-1", "iam")
    assert key.hex() == "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "/"),
        ("/", "/"),
        ("//", "/"),
        ("/a/./b//c", "/a/b/c"),
        ("/a/../../b/", "/b/"),
        ("/a%20b", "/a%2520b"),
        ("/~é", "/~%C3%A9"),
    ],
)
def test_canonical_path(path: str, expected: str) -> None:
    assert canonical_path(path) == expected


def test_secrets_stay_out_of_repr() -> None:
    assert not re.search("hidden|session", repr(Keys("AKIDEXAMPLE", "hidden", "session")))
