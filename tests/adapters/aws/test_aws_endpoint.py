"""Endpoints and proxies."""

from __future__ import annotations

import pytest

from adapters.aws.endpoint import Endpoint


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "path", "authority"),
    [
        ("https://sqs.eu-west-1.amazonaws.com", "sqs.eu-west-1.amazonaws.com", 443, True, "/", None),
        ("https://SQS.eu-west-1.amazonaws.com:443/", "sqs.eu-west-1.amazonaws.com", 443, True, "/", None),
        ("http://localhost:4566", "localhost", 4566, False, "/", "localhost:4566"),
        ("http://localhost:80/base/path", "localhost", 80, False, "/base/path", "localhost"),
        ("https://[::1]:4566", "::1", 4566, True, "/", "[::1]:4566"),
        ("http://[fe80::1]", "fe80::1", 80, False, "/", "[fe80::1]"),
    ],
)
def test_parse(url: str, host: str, port: int, tls: bool, path: str, authority: str | None) -> None:
    endpoint = Endpoint.parse(url, "eu-west-1")
    assert (endpoint.host, endpoint.port, endpoint.tls, endpoint.path) == (host, port, tls, path)
    assert endpoint.authority == (authority or host)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "must be http"),
        ("localhost:4566", "must be http"),
        ("ftp://localhost", "must be http"),
        ("https://", "must be http"),
        ("http://localhost:99999", "Port out of range"),
        ("http://localhost:port", "Port could not be cast"),
        ("http://user:secret@localhost", "without query, fragment and user"),
        ("http://localhost/?a=b", "without query, fragment and user"),
        ("http://localhost/#a", "without query, fragment and user"),
        ("http://localhost/a b", "printable ASCII"),
        ("http://localhost/é", "printable ASCII"),
        ("http://localhost/a\r\nb: c", "printable ASCII"),
    ],
)
def test_what_is_no_endpoint(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Endpoint.parse(url, "eu-west-1")


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        ("https://sqs.eu-west-1.amazonaws.com", {}, None),
        ("https://sqs.eu-west-1.amazonaws.com", {"HTTPS_PROXY": "http://proxy:3128"}, "HTTPS_PROXY"),
        ("https://sqs.eu-west-1.amazonaws.com", {"https_proxy": "http://proxy:3128"}, "HTTPS_PROXY"),
        ("https://sqs.eu-west-1.amazonaws.com", {"HTTP_PROXY": "http://proxy:3128"}, None),
        ("https://sqs.eu-west-1.amazonaws.com", {"HTTPS_PROXY": "http://p", "NO_PROXY": ".amazonaws.com"}, None),
        ("https://sqs.eu-west-1.amazonaws.com", {"HTTPS_PROXY": "http://p", "no_proxy": "*"}, None),
        ("https://sqs.eu-west-1.amazonaws.com", {"HTTPS_PROXY": "http://p", "NO_PROXY": "example.com"}, "HTTPS_PROXY"),
        ("http://localhost:4566", {"HTTP_PROXY": "http://p"}, "HTTP_PROXY"),
        ("http://localhost:4566", {"HTTP_PROXY": "http://p", "NO_PROXY": "127.0.0.1,localhost"}, None),
        ("http://localhost:4566", {"HTTP_PROXY": ""}, None),
    ],
)
def test_proxies(monkeypatch: pytest.MonkeyPatch, url: str, environment: dict[str, str], expected: str | None) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Endpoint.parse(url, "eu-west-1").proxy_variable() == expected
