"""What comes from aiobotocore: region, endpoints, certificate authorities, and clients for what is not hot."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ProfileNotFound
from botocore.httpsession import get_cert_path

from adapters.aws.credentials import Credentials, CredentialSource
from adapters.aws.endpoint import Endpoint
from adapters.aws.settings import AwsSettings
from adapters.aws.shapes import Shape
from gateway.core.errors import ConfigError


class OperationModel(Protocol):
    """One action, as botocore's service model describes it."""

    input_shape: Shape | None
    output_shape: Shape | None


class ServiceModel(Protocol):
    metadata: Mapping[str, str]

    def operation_model(self, action: str) -> OperationModel: ...


class ClientMeta(Protocol):
    endpoint_url: str
    region_name: str
    service_model: ServiceModel


class SdkServiceClient(Protocol):
    """A client of aiobotocore for one service; its actions are methods in snake case."""

    meta: ClientMeta


class AwsSession:
    """One for each gateway. Raises `ConfigError` when the settings do not say where AWS is."""

    def __init__(self, settings: AwsSettings) -> None:
        self.settings = settings
        self.credentials = Credentials(self._open_source)
        self._session = _Session(settings.profile, self.credentials)
        try:
            self.region = self._find_region()
            self.ca_bundle = self._find_ca_bundle()
        except ProfileNotFound as error:
            raise ConfigError("aws.profile", str(error), "name a profile of ~/.aws/config, or none") from error
        except BotoCoreError as error:
            raise ConfigError("aws", str(error)) from error

    async def endpoint(self, service: str, region: str) -> Endpoint:
        """Resolve an endpoint as botocore does: partition, FIPS and dual-stack flags, `AWS_ENDPOINT_URL_…`.

        Raises botocore's errors, and `ValueError` for a URL that is none.
        """
        async with self.client(service, region) as client:
            return Endpoint.parse(client.meta.endpoint_url, client.meta.region_name)

    def client(self, service: str, region: str) -> AbstractAsyncContextManager[SdkServiceClient]:
        """Open a client of aiobotocore that makes one attempt for each call, with our credentials."""
        context: AbstractAsyncContextManager[SdkServiceClient] = self._session.create_client(
            service,
            region_name=region,
            endpoint_url=self.settings.endpoint_url,
            verify=self.ca_bundle,
            config=AioConfig(
                connect_timeout=self.settings.connect_timeout,
                read_timeout=None,  # the caller's, for each call
                max_pool_connections=self.settings.max_connections,
                retries={"total_max_attempts": 1, "mode": "standard"},
                # An endpoint of one's own seldom has a name for each bucket.
                s3={"addressing_style": "path" if self.settings.endpoint_url else "auto"},
            ),
        )
        return context

    def _open_source(self) -> CredentialSource:
        """Start the credential chain; the services that providers call are in our region, behind our authorities."""
        session = AioSession(profile=self.settings.profile)
        session.set_config_variable("region", self.region)
        session.set_config_variable("ca_bundle", self.ca_bundle)
        source: CredentialSource = session
        return source

    def _find_region(self) -> str:
        # AWS_REGION is what ECS, EKS and Lambda set and other SDKs read; botocore reads AWS_DEFAULT_REGION only.
        region: str | None = (
            self.settings.region or os.environ.get("AWS_REGION") or self._session.get_config_variable("region")
        )
        if not region:
            raise ConfigError(
                "aws.region",
                "no region is known",
                "set aws.region, AWS_REGION, or region in the profile (~/.aws/config)",
            )
        return region

    def _find_ca_bundle(self) -> str:
        chosen = self.settings.ca_bundle or self._session.get_config_variable("ca_bundle")
        path = Path(chosen or get_cert_path(True)).expanduser()
        if not path.is_file():
            raise ConfigError("aws.ca_bundle", f"{path} is not a file", "name a PEM file")
        return str(path)


class _Session(AioSession):  # type: ignore[misc]  # aiobotocore has no types
    """A session whose clients all sign with the gateway's credentials."""

    def __init__(self, profile: str | None, credentials: Credentials) -> None:
        super().__init__(profile=profile)
        self._gateway_credentials = _GatewayCredentials(credentials)

    async def get_credentials(self) -> _GatewayCredentials:
        return self._gateway_credentials


class _GatewayCredentials(AioCredentials):  # type: ignore[misc]  # aiobotocore has no types
    """Our credentials, in the form that aiobotocore's signer asks for them."""

    def __init__(self, credentials: Credentials) -> None:
        super().__init__("", "")
        self._credentials = credentials

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        keys = self._credentials.current() or await self._credentials.load()
        return ReadOnlyCredentials(keys.access_key, keys.secret_key, keys.token)
