"""Opening the client that the settings ask for."""

from __future__ import annotations

from collections.abc import Iterable

from botocore.exceptions import BotoCoreError

from adapters.aws.api import AwsClient, Observer, observe_nothing
from adapters.aws.lean import LeanClient
from adapters.aws.sdk import SdkClient
from adapters.aws.session import AwsSession
from adapters.aws.settings import AwsSettings
from gateway.core.budget import ByteBudget
from gateway.core.errors import ConfigError


async def open_client(
    settings: AwsSettings,
    observe: Observer = observe_nothing,
    *,
    services: Iterable[str] = ("sqs",),
    budget: ByteBudget | None = None,
) -> AwsClient:
    """Open the client, without calling AWS. The caller closes it.

    `budget`: memory that what is read from S3 shares with other large bodies. The endpoints of `services` are resolved
    at once, so that what is wrong with them is told now. Raises `ConfigError`: no region, an unknown profile, no
    certificates, or a proxy that the lean transport cannot use.
    """
    session = AwsSession(settings)
    if settings.transport == "aiobotocore":
        return SdkClient(session, observe, budget)
    client = LeanClient(session, observe, budget)
    try:
        await client.open(services)
    except (BotoCoreError, ValueError) as error:
        raise ConfigError("aws", f"no endpoint is known: {error}", "check aws.region and aws.endpoint_url") from error
    return client
