"""The `aws` section."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from adapters.aws.settings import AwsSettings


def test_defaults() -> None:
    settings = AwsSettings()
    assert (settings.region, settings.endpoint_url, settings.transport) == (None, None, "lean")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"transport": "boto"}, "lean"),
        ({"regoin": "eu-west-1"}, "Extra inputs"),
        ({"connect_timeout": 0}, "greater than 0"),
        ({"read_timeout": -1}, "greater than 0"),
        ({"max_connections": 0}, "greater than or equal to 1"),
        ({"endpoint_url": "localhost:4566"}, "must be http://HOST"),
        ({"endpoint_url": "http://user:secret@localhost"}, "without query, fragment and user"),
        ({"endpoint_url": "http://localhost?x=1"}, "without query, fragment and user"),
        ({"endpoint_url": "http://localhost:port"}, "Port"),
    ],
)
def test_mistakes(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        AwsSettings.model_validate(values)


def test_empty_means_unset() -> None:
    settings = AwsSettings(region="", endpoint_url="", profile="")
    assert (settings.region, settings.endpoint_url, settings.profile) == (None, None, None)
