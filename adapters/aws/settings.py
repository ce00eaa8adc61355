"""The `aws` section of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from adapters.aws.endpoint import Endpoint


class AwsSettings(BaseModel):
    """How AWS is reached. Credentials are not set here: they come from the usual AWS chain."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    region: str | None = None
    """Where resources live that name no other region. None: `AWS_REGION`, `AWS_DEFAULT_REGION`, or the profile's."""
    endpoint_url: str | None = None
    """One endpoint for all services, for an emulator or a private link. None: as botocore resolves them."""
    profile: str | None = None
    """Name of a profile in `~/.aws/config`. None: `AWS_PROFILE`, or the default one."""
    transport: Literal["lean", "aiobotocore"] = "lean"
    """`lean` is several times cheaper; `aiobotocore` goes through HTTP proxies."""
    connect_timeout: float = Field(default=5.0, gt=0)
    """Seconds for the name, the TCP connection and the TLS handshake together."""
    read_timeout: float = Field(default=15.0, gt=0)
    """Seconds until the whole answer has arrived; long polls add the time that they wait on purpose."""
    max_connections: int = Field(default=256, ge=1, le=10_000)
    """Connections to one endpoint at most; as many again for long polls, of which each idle queue has one."""
    ca_bundle: Path | None = None
    """PEM file of the certificate authorities to trust. None: `AWS_CA_BUNDLE`, or those of botocore."""

    @field_validator("region", "profile", "endpoint_url")
    @classmethod
    def _filled(cls, value: str | None) -> str | None:
        return value or None

    @field_validator("endpoint_url")
    @classmethod
    def _plain_url(cls, value: str | None) -> str | None:
        if value is not None:
            Endpoint.parse(value, region="")
        return value
