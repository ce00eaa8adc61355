"""The settings of a gateway: one model for each part. What a protocol or an adapter defines is checked by it, later.

Times are in seconds and sizes in bytes unless a name says otherwise.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from config.auth import AuthSettings
from config.mistakes import ConfigErrors, from_validation, mistake
from config.section import Count, Seconds, Section, Text, Unlimited
from config.sources import DELIMITER, PREFIX, Environment, read_file, unknown_variables, variable_at
from gateway.core.backend import Provision
from gateway.core.errors import ConfigError

MEMORY_STATE: Final = "memory:"
SQLITE_STATE: Final = "sqlite://"
"""Followed by the absolute path of the file."""
DYNAMODB_STATE: Final = "dynamodb://"
"""Followed by the name of the table."""
_TABLE_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{3,255}")
"""Of DynamoDB (guide, "Naming rules")."""
_ANY_ADDRESS: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared, not bound

Port: TypeAlias = Annotated[int, Field(ge=0, le=65_535)]
"""0 takes any free port."""
HttpPath: TypeAlias = Annotated[str, Field(pattern=r"^/[!->@-~]*$", max_length=1024)]
"""Of a request, as it is written there, without a query."""


class NamedCertificateSettings(Section):
    """A certificate for clients that ask for one of these names (SNI)."""

    names: Annotated[tuple[Text, ...], Field(min_length=1)]
    """`*.example.com` stands for one label more."""
    certificate: Path
    key: Path


class TlsSettings(Section):
    """The certificates that a listener shows, and those that it wants to see. Files are PEM."""

    certificate: Path
    """The certificate, followed by its chain."""
    key: Path
    server_names: tuple[NamedCertificateSettings, ...] = ()
    """Further certificates, each for its names; `certificate` is for all others."""
    client_ca: Path | None = None
    """Who signs client certificates."""
    client_crl: Path | None = None
    """Which of them are revoked."""
    client_certificates: Literal["none", "optional", "required"] = "none"
    min_version: Literal["1.2", "1.3"] = "1.2"
    ciphers: Text | None = None
    """Of TLS 1.2, as OpenSSL writes them."""
    alpn: tuple[Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[!-~]+$")], ...] = ()
    """Protocols to agree on. Empty: those of the protocol."""

    @field_validator("min_version", mode="before")
    @classmethod
    def _version_may_look_like_a_number(cls, version: object) -> object:
        return str(version) if isinstance(version, float) else version

    @field_validator("server_names")
    @classmethod
    def _names_have_one_certificate(
        cls, server_names: tuple[NamedCertificateSettings, ...]
    ) -> tuple[NamedCertificateSettings, ...]:
        known: set[str] = set()
        for number, each in enumerate(server_names):
            for name in each.names:
                if name.lower() in known:
                    raise mistake(f"{name!r} has a certificate already", "one for each name", f"{number}.names")
                known.add(name.lower())
        return server_names

    @model_validator(mode="after")
    def _revoked_certificates_have_an_authority(self) -> Self:
        if self.client_crl is not None and self.client_ca is None:
            raise mistake("nobody is asked for a certificate", "set client_ca too, or no client_crl", "client_crl")
        return self

    @model_validator(mode="after")
    def _client_certificates_need_their_authority(self) -> Self:
        if self.client_certificates != "none" and self.client_ca is None:
            raise mistake("client certificates cannot be verified", "set client_ca to a PEM file", "client_ca")
        if self.client_certificates == "none" and self.client_ca is not None:
            raise mistake(
                "no client certificate is asked for", "set optional or required, or no client_ca", "client_certificates"
            )
        return self


class ConnectionLimitSettings(Section):
    """What one connection may have under way."""

    inflight_messages: Count = 2_000
    """Publishes without a result before the connection is not read any more."""
    inflight_bytes: Annotated[int, Field(ge=1024 * 1024)] = 64 * 1024 * 1024
    """The same in bytes of their payloads. A small one counts as its share: this, divided by the number of messages."""
    publish_rate: Unlimited = 0
    """Publishes a second before the connection is not read for a while; what a second allows is saved. 0: any."""
    publish_bytes_rate: Unlimited = 0
    """The same in bytes of their payloads."""
    consumers: Count = 5_000
    """Of queues; one more is refused."""
    unacknowledged: Unlimited = 0
    """Deliveries that the client holds, whatever its prefetch allows, before it gets no more. 0: any number. Channels
    of AMQP have `max_unacknowledged` in its place."""
    write_timeout: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 300.0
    """A client that was sent something and has not taken a byte of it for so long is cut off. 0: never."""


class ListenerSettings(BaseModel):
    """A port where clients connect. Further keys are the protocol's own and are checked by it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    protocol: Text
    host: str = "127.0.0.1"
    port: Port
    transport: Literal["tcp", "websocket"] = "tcp"
    """What carries the protocol; with `tls`, inside TLS."""
    paths: tuple[HttpPath, ...] = ()
    """Where a WebSocket is opened. Empty: where the protocol's clients expect it."""
    origins: tuple[Text, ...] = ()
    """Web pages that may open a WebSocket, as `https://example.com`. Empty: all."""
    proxy_protocol: bool = False
    """Whether each connection begins with a header of the PROXY protocol, version 1 or 2, that names the peer."""
    tls: TlsSettings | None = None
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    connect_timeout: Seconds = 10.0
    """From accepting a connection to the end of its protocol's handshake."""
    limits: ConnectionLimitSettings | None = None
    """Of a connection here: keys that are given win over `limits.connection`."""

    @model_validator(mode="after")
    def _options_of_websockets_have_one(self) -> Self:
        for key in ("paths", "origins"):
            if self.transport != "websocket" and getattr(self, key):
                raise mistake("is for WebSockets only", "set transport to websocket, or leave it out", key)
        return self

    def connection_limits(self, general: ConnectionLimitSettings) -> ConnectionLimitSettings:
        """What holds for a connection here."""
        if self.limits is None:
            return general
        return general.model_copy(update=self.limits.model_dump(exclude_unset=True))

    @property
    def options(self) -> dict[str, object]:
        """The keys that are the protocol's own."""
        return dict(self.model_extra or {})


MIN_TOKEN: Final = 16
"""Characters of the admin token: too many to try."""


class AdminSettings(Section):
    """The HTTP server of metrics, health and the commands for operators."""

    host: str = "127.0.0.1"
    port: Port = 9090
    token: SecretStr | None = None
    """What requests to `/api/` have to show (`Authorization: Bearer …`). None: that part is closed."""
    protect_metrics: bool = False
    """Whether `/metrics` wants the token as well."""

    @field_validator("token")
    @classmethod
    def _token_is_long(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and len(token.get_secret_value()) < MIN_TOKEN:
            raise mistake("the value is too short", f"{MIN_TOKEN} characters or more, such as of openssl rand -hex 24")
        return token

    @model_validator(mode="after")
    def _protected_by_a_token(self) -> Self:
        if self.protect_metrics and self.token is None:
            raise mistake("there is no token to protect them with", "set token as well", "protect_metrics")
        return self


class MatchSettings(Section):
    """A pattern of legacy names: exactly one of topic, queue and exchange; an exchange may come with a key."""

    topic: str | None = None
    queue: str | None = None
    exchange: str | None = None
    key: str | None = None

    @model_validator(mode="after")
    def _names_one_kind(self) -> Self:
        given = [name for name in ("topic", "queue", "exchange") if getattr(self, name) is not None]
        if len(given) != 1:
            problem = f"{' and '.join(given)} are both given" if given else "says nothing to match"
            raise mistake(problem, "one of topic, queue or exchange; write a rule for each")
        if self.key is not None and self.exchange is None:
            raise mistake(f"a {given[0]} has no key", "leave it out, or match an exchange", "key")
        return self


class SelectorSettings(Section):
    """That the consumers of a queue may have selectors, and what becomes of a message that none of them takes."""

    pass_over: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """It is hidden for so long, then looked at again. Short, it costs more; long, consumers that come later wait."""


class RouteSettings(Section):
    """A rule: what matches goes to the targets; the first rule that matches wins."""

    match: MatchSettings
    to: tuple[dict[str, object], ...]
    """Each has one key that names the kind (`sqs`, `queue`, …), and that kind's options."""
    selectors: SelectorSettings | None = None
    """None: consumers of the queue cannot have selectors."""

    @model_validator(mode="after")
    def _selects_from_a_queue(self) -> Self:
        if self.selectors is not None and self.match.queue is None:
            problem = "subscriptions to topics have selectors without a rule, and exchanges have no consumers"
            raise mistake(problem, "leave it out, or match a queue", "selectors")
        return self

    @field_validator("to")
    @classmethod
    def _goes_somewhere(cls, to: tuple[dict[str, object], ...]) -> tuple[dict[str, object], ...]:
        if not to:
            raise mistake("is empty", "one target at least, such as - {queue: orders}")
        return to


class IngressSettings(Section):
    """An SNS topic whose messages are published here: to a topic, to an exchange, or into a queue."""

    sns: Text
    """Name or ARN."""
    topic: Text | None = None
    """As MQTT writes it, with fields such as `{header:site}`, `{json:a.b}` and `{key}`."""
    exchange: Text | None = None
    key: str = ""
    """The routing key, with fields."""
    queue: Text | None = None
    """A queue that clients consume, with fields."""
    envelope: bool = False
    """Whether messages come in the JSON envelope of SNS, from a subscription without raw delivery."""
    filter: bool = False
    """Whether SNS keeps out what this gateway has published. Messages without any attribute are kept out then, too."""

    @model_validator(mode="after")
    def _goes_to_one_place(self) -> Self:
        given = [name for name in ("topic", "exchange", "queue") if getattr(self, name) is not None]
        if len(given) != 1:
            problem = f"{' and '.join(given)} are both given" if given else "says nothing about where it goes"
            raise mistake(problem, "one of topic, exchange or queue")
        if self.key and self.exchange is None:
            raise mistake(f"a {given[0]} has no key", "leave it out, or name an exchange", "key")
        if self.filter and self.envelope:
            raise mistake(
                "is for subscriptions that the gateway makes, and those deliver raw", "leave one out", "filter"
            )
        return self


class UserLimitSettings(Section):
    """What all connections of one user may do together; 0 for any amount. Anonymous clients are not one user."""

    connections: Unlimited = 0
    """One more is refused at its login."""
    publish_rate: Unlimited = 0
    """Publishes a second before connections are not read for a while."""
    publish_bytes_rate: Unlimited = 0
    """The same in bytes of their payloads."""


class AddressLimitSettings(Section):
    """What comes from one address, or from one network (/64) of IPv6; 0 for any number."""

    connections: Unlimited = 0
    """One more is closed at once."""
    attempts: Unlimited = 0
    """Connections begun in a second before more are closed at once; what ten seconds allow may come together."""


class GatewayLimitSettings(Section):
    """What one gateway holds at most."""

    connections: Unlimited = 0
    """Of all listeners together; one more is closed at once. 0: as many as the listeners allow."""
    inflight_messages: Count = 100_000
    """Publishes without a result before publishers are not read any more."""
    inflight_bytes: Annotated[int, Field(ge=1024 * 1024)] = 256 * 1024 * 1024
    """The same in bytes. Memory is about this and 15 KiB for each connection."""
    large_body_bytes: Annotated[int, Field(ge=1024 * 1024)] = 512 * 1024 * 1024
    """Of bodies over 256 KiB that are in memory: while clients send them, until they are stored, and from when they are
    fetched until they are written. What has no room waits for its turn."""
    durable_queues: Count = 10_000
    """Durable queues in use; one more is refused."""
    sessions: Count = 10_000
    """Sessions kept for clients that come back; one more is refused."""
    retained_messages: Count = 100_000
    """Retained messages; one more is refused. All are in memory, as well as in the state store."""
    retained_bytes: Annotated[int, Field(ge=1024 * 1024)] = 256 * 1024 * 1024
    """The same in bytes of their payloads."""


class LimitSettings(Section):
    """Bounds that hold memory; what is over them waits or is refused."""

    connection: ConnectionLimitSettings = ConnectionLimitSettings()
    user: UserLimitSettings = UserLimitSettings()
    address: AddressLimitSettings = AddressLimitSettings()
    gateway: GatewayLimitSettings = GatewayLimitSettings()


class SenderSettings(Section):
    """How messages are sent to AWS."""

    linger: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.0
    """How long a batch that is not full waits for more: fewer and cheaper requests, for latency."""
    requests: Annotated[int, Field(ge=1, le=1_000)] = 64
    """Requests to one destination under way at once, at most."""
    partial_requests: Annotated[int, Field(ge=1, le=1_000)] = 8
    """A batch that is not full is sent only while fewer requests than this are under way."""
    timeout: Seconds = 30.0
    """After this long a message that could not be sent is given back to its publisher."""
    backoff_base: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 0.05
    """Wait before the first retry, at most; doubled for each further one, and a random part of it is taken."""
    backoff_cap: Annotated[float, Field(gt=0, le=900, allow_inf_nan=False)] = 5.0


class ReceiverSettings(Section):
    """How queues are polled for consumers."""

    visibility: Annotated[int, Field(ge=1, le=43_200)] = 30
    """How long a received message stays hidden from others; renewed while a client holds it. After a crash of the
    gateway it comes back within this time. SQS allows 12 hours."""
    wait: Annotated[int, Field(ge=1, le=20)] = 20
    """Long poll. SQS allows 20; less costs more requests."""
    polls: Annotated[int, Field(ge=1, le=256)] = 16
    """Requests for one queue under way at once, at most; an idle queue has one."""


class LogSettings(Section):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"
    audit: bool = True
    """Whether logins, changes of the topology and what operators do are logged, whatever the level."""
    audit_file: Path | None = None
    """Where those lines go, in JSON, instead of standard error. The file may be rotated by renaming it."""


class TracingSettings(Section):
    """Spans of messages, for OpenTelemetry."""

    endpoint: Text | None = None
    """Where spans are sent by OTLP over HTTP, such as http://localhost:4318/v1/traces. None: nothing is traced."""
    sample: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0
    """Share of the messages that come without a `traceparent` which begin a trace; others follow theirs."""


class Settings(BaseSettings):
    """Everything an operator can say. `load` reads it; environment variables win over the file."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=PREFIX, env_nested_delimiter=DELIMITER, validate_default=True
    )

    aws: Annotated[dict[str, object], Field(repr=False)] = Field(default_factory=dict)
    """Checked by the adapter of AWS."""
    prefix: Annotated[str, Field(max_length=40, pattern=r"^[A-Za-z0-9_-]*$")] = ""
    """Of the names of AWS resources that are made from legacy names."""
    provision: Provision = "auto"
    """Whether missing resources are created."""
    state: str = MEMORY_STATE
    """Where exchanges, bindings and sessions are kept."""
    listeners: tuple[ListenerSettings, ...]
    admin: AdminSettings = AdminSettings()
    auth: AuthSettings = AuthSettings()
    routes: tuple[RouteSettings, ...] = ()
    ingress: tuple[IngressSettings, ...] = ()
    """SNS topics that are listened to."""
    sqs: Annotated[dict[str, object], Field(repr=False)] = Field(default_factory=dict)
    """Checked by the adapter of SQS."""
    sns: Annotated[dict[str, object], Field(repr=False)] = Field(default_factory=dict)
    """Checked by the adapter of SNS."""
    limits: LimitSettings = LimitSettings()
    sender: SenderSettings = SenderSettings()
    receiver: ReceiverSettings = ReceiverSettings()
    drain_timeout: Seconds = 25.0
    """From SIGTERM to the end, whatever is still under way. Kubernetes kills after 30."""
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that share the ports. More than one share nothing else: see docs/operations.md."""

    _source: str = PrivateAttr(default="configuration")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - replaced
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not used
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not used
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, Environment(settings_cls)

    @property
    def source(self) -> str:
        """The file that was read, to name it in errors."""
        return self._source

    @property
    def state_table(self) -> str:
        """The DynamoDB table that keeps the state; empty where something else does."""
        return self.state.removeprefix(DYNAMODB_STATE) if self.state.startswith(DYNAMODB_STATE) else ""

    @field_validator("state")
    @classmethod
    def _state_is_there(cls, state: str) -> str:
        places = f"{MEMORY_STATE!r}, '{SQLITE_STATE}/absolute/path/of/state.db', or '{DYNAMODB_STATE}TABLE'"
        if state.startswith(DYNAMODB_STATE):
            if not _TABLE_NAME.fullmatch(state.removeprefix(DYNAMODB_STATE)):
                raise mistake(f"{state!r} does not end in the name of a table", "3 to 255 letters, digits, _ . and -")
            return state
        path = state.removeprefix(SQLITE_STATE)
        if state != MEMORY_STATE and (path == state or not Path(path).is_absolute() or path.endswith("/")):
            raise mistake(f"{state!r} is no place for state", f"write {places}")
        return state

    @field_validator("listeners")
    @classmethod
    def _ports_differ(cls, listeners: tuple[ListenerSettings, ...]) -> tuple[ListenerSettings, ...]:
        if not listeners:
            raise mistake("is empty", "one listener at least, such as - {protocol: mqtt, port: 1883}")
        for (first, one), (second, other) in itertools.combinations(enumerate(listeners), 2):
            if _clash(one, other):
                problem = f"port {other.port} is that of listeners.{first} already"
                raise mistake(problem, "give each listener its own port", f"{second}.port")
        return listeners

    @field_validator("admin")
    @classmethod
    def _admin_has_its_own_port(cls, admin: AdminSettings, info: ValidationInfo) -> AdminSettings:
        listeners: Sequence[ListenerSettings] = info.data.get("listeners", ())
        for number, listener in enumerate(listeners):
            if _clash(listener, admin):
                raise mistake(f"port {admin.port} is that of listeners.{number} already", "another port", "port")
        return admin

    @field_validator("workers")
    @classmethod
    def _workers_can_share(cls, workers: int, info: ValidationInfo) -> int:
        if workers == 1:
            return workers
        state = str(info.data.get("state", ""))
        if state.startswith(SQLITE_STATE):
            raise mistake(
                "one process uses the file of state", "write state: 'memory:', or run 1 worker for kept sessions"
            )
        if state.startswith(DYNAMODB_STATE):
            raise mistake(
                "several workers keep no state", "write state: 'memory:', or run 1 worker in each of several gateways"
            )
        listeners: Sequence[ListenerSettings] = info.data.get("listeners", ())
        for number, listener in enumerate(listeners):
            if listener.port == 0:
                raise mistake(f"listeners.{number} takes any port, and each process another", "a port, or 1 worker")
        return workers


def _clash(one: ListenerSettings | AdminSettings, other: ListenerSettings | AdminSettings) -> bool:
    """Whether two sockets would want the same port. A wildcard address takes it on every interface."""
    if one.port != other.port or one.port == 0:
        return False
    return one.host == other.host or not _ANY_ADDRESS.isdisjoint({one.host, other.host})


def load(path: Path | None) -> Settings:
    """Read a file, if one is given, and the environment. Raises `ConfigErrors` with every mistake that was found."""
    unknown = unknown_variables(Settings)
    source = "environment" if path is None else str(path)
    try:
        document = {} if path is None else read_file(path)
        settings = _with_file(document).model_validate({})
    except ConfigError as error:
        raise ConfigErrors([error, *unknown.values()]) from error
    except ValidationError as error:
        found = from_validation(error, Settings)
        # An unknown variable of a section is seen by pydantic too.
        told = [located(source, each) for each in found if variable_at(each.key.split(".")) not in unknown]
        raise ConfigErrors([*told, *unknown.values()]) from None  # pydantic's own text repeats values
    if unknown:
        raise ConfigErrors(list(unknown.values()))
    settings._source = source  # noqa: SLF001 - this module's own class
    return settings


def located(source: str, error: ConfigError) -> ConfigError:
    """The same mistake, with the file or the environment variable that it is in."""
    variable = variable_at(error.key.split("."))
    where = f"environment: {variable}" if variable else source
    return ConfigError(f"{where}: {error.key}", error.problem, error.remedy)


def _with_file(document: dict[str, object]) -> type[Settings]:
    """The settings with one more source, after the environment."""

    class FileSettings(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            before = super().settings_customise_sources(
                settings_cls, init_settings, env_settings, dotenv_settings, file_secret_settings
            )
            return *before, InitSettingsSource(settings_cls, document)

    return FileSettings
