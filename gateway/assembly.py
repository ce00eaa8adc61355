"""From settings to checked parts: protocols and adapters are found by the names of their folders.

What a folder defines is checked by that folder, and every mistake is told, not only the first. Nothing is opened here
but the files of TLS and of access control.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, cast

from pydantic import BaseModel, ValidationError

import adapters
from adapters.aws.api import AwsClient
from adapters.aws.settings import AwsSettings
from adapters.dynamodb import store as dynamodb
from adapters.memory.store import MemoryStore
from adapters.sns import inlet
from adapters.sns.settings import parse_target as parse_topic
from adapters.sqlite.store import SqliteStore
from adapters.sqs.settings import DEFAULT_OPTIONS as USUAL_QUEUE
from config.mistakes import ConfigErrors, from_validation, under
from config.settings import (
    MEMORY_STATE,
    SQLITE_STATE,
    IngressSettings,
    ListenerSettings,
    Settings,
    located,
)
from gateway import protocols
from gateway.authentication import Prepared, prepare
from gateway.core.backend import Backend, QueueSpec, Target
from gateway.core.errors import ConfigError
from gateway.core.fanout import Subscriber
from gateway.core.ingress import IngressRule, Inlet
from gateway.core.message import DEFAULT_EXCHANGE, TOPIC_EXCHANGE
from gateway.core.routes import (
    QUEUE_KIND,
    Routes,
)
from gateway.core.session import SessionFactory
from gateway.core.store import StateStore
from gateway.core.templates import Template
from gateway.core.tracing import Tracer
from gateway.net.tls import NamedCertificate, ServerTls, TlsOptions
from gateway.net.websocket import WebSocketOptions
from gateway.rules import (
    STREAM_KIND,
    check_no_fanout,
    check_not_pushed,
    check_whole,
    fanned_out,
    not_there,
    read_rule,
    target_parser,
)

HOME_KIND: Final = "sqs"
"""Where queues live that no rule maps."""

STATE_SERVICE: Final = "dynamodb"
"""What keeps the state of several gateways."""


class PacketSettings(Protocol):
    """What the settings of a protocol say that has a form for WebSockets."""

    @property
    def largest_packet(self) -> int:
        """Bytes."""


class BodySettings(Protocol):
    """What the settings of every protocol say."""

    @property
    def largest_body(self) -> tuple[str, int]:
        """The option that says how large a message may be, and its bytes."""


class ClosingTracer(Tracer, Protocol):
    """A tracer that is to be closed at the end."""

    async def aclose(self) -> None:
        """Send what is left, for a few seconds at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerPart:
    """One listener with all its parts checked. `key` says where in the configuration it stands."""

    key: str
    settings: ListenerSettings
    protocol_settings: object
    """The protocol's own, for `SessionContext.settings`."""
    open_session: SessionFactory
    tls: ServerTls | None
    websocket: WebSocketOptions | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressPart:
    """One topic that is listened to. `queue` is the legacy name of the queue that its messages are taken from."""

    rule: IngressRule
    settings: IngressSettings
    topic: Target
    queue: str
    spec: QueueSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """Everything that the configuration says, ready to be opened. `kinds` are the backends that it needs."""

    settings: Settings
    aws: AwsSettings
    listeners: tuple[ListenerPart, ...]
    routes: Routes
    kinds: tuple[str, ...]
    access: Prepared
    """Who may connect, and who may do what."""
    ingress: tuple[IngressPart, ...]

    @property
    def services(self) -> tuple[str, ...]:
        """What is called of AWS: each is the name of its adapter."""
        return (*self.kinds, STATE_SERVICE) if self.settings.state_table else self.kinds


async def open_store(assembly: Assembly, aws: AwsClient) -> StateStore:
    """Open the state store that the settings name. The client stays the caller's to close.

    Raises `ConfigError` when it cannot be used, and `StoreError` when it does not answer.
    """
    settings = assembly.settings
    if settings.state_table:
        return await dynamodb.open_store(
            aws,
            settings.state_table,
            prefix=settings.prefix,
            provision=settings.provision,
            read_timeout=assembly.aws.read_timeout,
        )
    if settings.state == MEMORY_STATE:
        return MemoryStore()
    return SqliteStore(Path(settings.state.removeprefix(SQLITE_STATE)))


async def probe_state(assembly: Assembly, aws: AwsClient) -> bool:
    """Whether the table of the state store is there; one that is missing and would be created is no mistake.

    Raises as `open_store`, and changes nothing.
    """
    settings = assembly.settings
    return await dynamodb.probe(
        aws, settings.state_table, provision=settings.provision, read_timeout=assembly.aws.read_timeout
    )


def protocol_names() -> list[str]:
    """The protocols that are there."""
    return sorted(module.name for module in pkgutil.iter_modules(protocols.__path__) if module.ispkg)


def backend_kinds() -> list[str]:
    """The adapters that keep messages: those with a backend, unlike the AWS client or a state store."""
    packages = [module.name for module in pkgutil.iter_modules(adapters.__path__) if module.ispkg]
    return sorted(name for name in packages if importlib.util.find_spec(f"adapters.{name}.backend"))


def assemble(settings: Settings) -> Assembly:
    """Check everything that protocols and adapters define. Raises `ConfigErrors` with every mistake."""
    mistakes: list[ConfigError] = []
    aws = _aws(settings, mistakes)
    listeners = [_listener(number, each, mistakes) for number, each in enumerate(settings.listeners)]
    _check_room(settings, listeners, mistakes)
    parsers = {kind: target_parser(kind) for kind in backend_kinds()}
    rules = [read_rule(number, each, parsers, mistakes) for number, each in enumerate(settings.routes)]
    _tracing(settings, mistakes)
    for kind in parsers:
        own = _section(kind, settings, mistakes)
        if getattr(own, "large_payloads", None) is not None:
            check_whole(kind, rules, mistakes)
    if settings.provision == "never":
        check_no_fanout(rules, mistakes)
    if settings.workers > 1:
        check_not_pushed(rules, mistakes)
    ingress = [_ingress(number, each, mistakes) for number, each in enumerate(settings.ingress)]
    _check_apart(ingress, mistakes)
    access = prepare(settings.auth, mistakes)
    if aws is None or access is None or mistakes:
        raise ConfigErrors([located(settings.source, error) for error in mistakes])
    routes = Routes(rule for rule in rules if rule is not None)
    used = {target.target.kind for rule in routes.rules for target in rule.targets} - {QUEUE_KIND}
    return Assembly(
        settings=settings,
        aws=aws,
        listeners=tuple(part for part in listeners if part is not None),
        routes=routes,
        kinds=tuple(
            sorted(used | {HOME_KIND, STREAM_KIND} | {part.topic.kind for part in ingress if part is not None})
        ),
        ingress=tuple(part for part in ingress if part is not None),
        access=access,
    )


def open_backend(kind: str, aws: AwsClient, settings: Settings) -> Backend:
    """The backend of an adapter. Nothing is called yet; the client stays the caller's to close."""
    module = importlib.import_module(f"adapters.{kind}.backend")
    own_section = section(kind, settings)
    own = {} if own_section is None else {"settings": own_section}
    backend: Backend = module.open_backend(aws, prefix=settings.prefix, provision=settings.provision, **own)
    return backend


def _tracing(settings: Settings, mistakes: list[ConfigError]) -> None:
    endpoint = settings.tracing.endpoint
    if endpoint is None:
        return
    if not endpoint.startswith(("http://", "https://")):
        problem = "is not the URL of a collector"
        mistakes.append(ConfigError("tracing.endpoint", problem, "write one such as http://localhost:4318/v1/traces"))
    elif importlib.util.find_spec("opentelemetry") is None:
        mistakes.append(ConfigError("tracing.endpoint", "OpenTelemetry is not there", "pip install 'mqlift[otel]'"))


def open_tracer(settings: Settings) -> ClosingTracer | None:
    """What the settings ask for; None where nothing is traced."""
    if settings.tracing.endpoint is None:
        return None
    tracing = importlib.import_module("gateway.tracing")
    tracer: ClosingTracer = tracing.open_tracer(settings.tracing.endpoint, settings.tracing.sample)
    return tracer


def section(kind: str, settings: Settings) -> BaseModel | None:
    """An adapter's own section, which `assemble` has checked; None for an adapter that has none."""
    return _section(kind, settings, [])


def open_inlet(part: IngressPart, aws: AwsClient, queue: Target, settings: Settings) -> Inlet:
    """What brings a topic's messages into `queue`. Nothing is called yet; the client stays the caller's to close."""
    return inlet.open_inlet(
        aws,
        prefix=settings.prefix,
        provision=settings.provision,
        topic=part.topic,
        queue=queue,
        envelope=part.settings.envelope,
        filtered=part.settings.filter,
    )


def open_subscribers(assembly: Assembly, aws: AwsClient) -> Mapping[str, Subscriber]:
    """What makes subscriptions, by kind, for the rules that ask for fan-out. Nothing is called yet."""
    opened: dict[str, Subscriber] = {}
    for _, target in fanned_out(assembly.routes.rules):
        if target.kind not in opened:
            module = importlib.import_module(f"adapters.{target.kind}.fanout")
            own = section(target.kind, assembly.settings)
            opened[target.kind] = module.open_subscriber(aws, settings=own, usual=USUAL_QUEUE)
    return opened


def _section(kind: str, settings: Settings, mistakes: list[ConfigError]) -> BaseModel | None:
    """An adapter's own section of the configuration; None for an adapter that has none."""
    model: type[BaseModel] | None = getattr(importlib.import_module(f"adapters.{kind}.settings"), "Settings", None)
    if model is None:
        return None
    try:
        return model.model_validate(getattr(settings, kind))
    except ValidationError as error:
        mistakes.extend(under(kind, each) for each in from_validation(error, model))
        return None


def _ingress(number: int, settings: IngressSettings, mistakes: list[ConfigError]) -> IngressPart | None:
    key = f"ingress.{number}"
    try:
        topic = parse_topic(settings.sns, {}, frozenset())
        return IngressPart(
            rule=_ingress_rule(key, settings),
            settings=settings,
            topic=topic,
            queue=inlet.queue_name(settings.sns),
            spec=QueueSpec(arguments={"x-fifo": inlet.is_fifo(settings.sns)}),
        )
    except ConfigError as error:
        mistakes.append(under(key, error))
        return None


def _ingress_rule(key: str, settings: IngressSettings) -> IngressRule:
    """Raises `ConfigError` with a key relative to the entry."""
    known = frozenset({"subject"}) if settings.envelope else frozenset[str]()  # raw delivery leaves the subject out
    if settings.topic is not None:
        template = _ingress_template("topic", settings.topic, known)
        return IngressRule(key=key, exchange=TOPIC_EXCHANGE, routing_key=template, as_topic=True)
    if settings.queue is not None:
        template = _ingress_template("queue", settings.queue, known)
        return IngressRule(key=key, exchange=DEFAULT_EXCHANGE, routing_key=template)
    template = _ingress_template("key", settings.key, known)
    return IngressRule(key=key, exchange=settings.exchange or DEFAULT_EXCHANGE, routing_key=template)


def _ingress_template(key: str, text: str, known: AbstractSet[str]) -> Template:
    try:
        return Template.parse(text, known)
    except ValueError as error:
        remedy = "" if known or "{subject}" not in text else "a subject is there with envelope: true only"
        raise ConfigError(key, str(error), remedy) from None


def _check_apart(ingress: Sequence[IngressPart | None], mistakes: list[ConfigError]) -> None:
    """Each topic once: two would share a queue, and each get a part of its messages."""
    first: dict[str, int] = {}
    for number, part in enumerate(ingress):
        if part is not None and first.setdefault(part.queue, number) != number:
            problem = f"topic {part.settings.sns} is that of ingress.{first[part.queue]} already"
            mistakes.append(ConfigError(f"ingress.{number}.sns", problem, "one entry for each topic"))


def _aws(settings: Settings, mistakes: list[ConfigError]) -> AwsSettings | None:
    try:
        return AwsSettings.model_validate(settings.aws)
    except ValidationError as error:
        mistakes.extend(under("aws", each) for each in from_validation(error, AwsSettings))
        return None


def _listener(number: int, settings: ListenerSettings, mistakes: list[ConfigError]) -> ListenerPart | None:
    key = f"listeners.{number}"
    known = protocol_names()
    if settings.protocol not in known:
        mistakes.append(not_there(f"{key}.protocol", f"no protocol {settings.protocol!r}", settings.protocol, known))
        return None
    found = len(mistakes)
    protocol_settings = _protocol_settings(key, settings, mistakes)
    tls = _tls(key, settings, mistakes)
    websocket = _websocket(key, settings, protocol_settings, mistakes)
    if len(mistakes) > found:
        return None
    return ListenerPart(
        key=key,
        settings=settings,
        protocol_settings=protocol_settings,
        open_session=_session_factory(settings.protocol),
        tls=tls,
        websocket=websocket,
    )


def _check_room(settings: Settings, listeners: Iterable[ListenerPart | None], mistakes: list[ConfigError]) -> None:
    """A message that has no room alone would wait for ever."""
    room = settings.limits.gateway.large_body_bytes
    for listener in listeners:
        if listener is None:
            continue
        option, size = cast("BodySettings", listener.protocol_settings).largest_body
        if size > room:
            problem = f"{room} bytes have no room for a message of {listener.key}, which may have {size}"
            remedy = f"{size} or more, or a smaller {option} of that listener"
            mistakes.append(ConfigError("limits.gateway.large_body_bytes", problem, remedy))


def _protocol_settings(key: str, settings: ListenerSettings, mistakes: list[ConfigError]) -> object:
    module = importlib.import_module(f"gateway.protocols.{settings.protocol}.settings")
    model: type[BaseModel] = module.Settings
    try:
        return model.model_validate(settings.options)
    except ValidationError as error:
        own = ListenerSettings.model_fields
        mistakes.extend(under(key, each) for each in from_validation(error, model, also_known=own))
        return None


def _session_factory(protocol: str) -> SessionFactory:
    module = importlib.import_module(f"gateway.protocols.{protocol}.session")
    factory: SessionFactory = module.open_session
    return factory


def _tls(key: str, settings: ListenerSettings, mistakes: list[ConfigError]) -> ServerTls | None:
    tls = settings.tls
    if tls is None:
        return None
    options = TlsOptions(
        certificate=tls.certificate,
        key=tls.key,
        named=tuple(
            NamedCertificate(names=each.names, certificate=each.certificate, key=each.key) for each in tls.server_names
        ),
        client_ca=tls.client_ca,
        client_crl=tls.client_crl,
        client_certificates=tls.client_certificates,
        oldest=tls.min_version,
        ciphers=tls.ciphers or "",
        alpn=tls.alpn or _alpn(settings),
    )
    try:
        return ServerTls(options)
    except ConfigError as error:
        mistakes.append(under(key, error))
        return None


def _alpn(settings: ListenerSettings) -> tuple[str, ...]:
    """What TLS clients of the protocol may ask for (`ALPN` of its settings). WebSockets begin as HTTP."""
    if settings.transport == "websocket":
        return ("http/1.1",)
    module = importlib.import_module(f"gateway.protocols.{settings.protocol}.settings")
    names: tuple[str, ...] = getattr(module, "ALPN", ())
    return names


def _websocket(
    key: str, settings: ListenerSettings, protocol_settings: object, mistakes: list[ConfigError]
) -> WebSocketOptions | None:
    if settings.transport != "websocket" or protocol_settings is None:
        return None
    module = importlib.import_module(f"gateway.protocols.{settings.protocol}.settings")
    if not hasattr(module, "WEBSOCKET_PATHS"):
        problem = f"{settings.protocol} has no form for WebSockets"
        mistakes.append(ConfigError(f"{key}.transport", problem, "write tcp, or leave it out"))
        return None
    return WebSocketOptions(
        paths=settings.paths or module.WEBSOCKET_PATHS,
        subprotocols=module.WEBSOCKET_SUBPROTOCOLS,
        subprotocol_required=module.WEBSOCKET_SUBPROTOCOL_REQUIRED,
        text=module.WEBSOCKET_TEXT,
        max_packet=cast("PacketSettings", protocol_settings).largest_packet,
        origins=settings.origins,
    )
