"""What protocols and adapters define is checked by them; mistakes carry the whole key."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from config.mistakes import ConfigErrors
from config.settings import Settings
from gateway.assembly import assemble, backend_kinds, open_backend, protocol_names
from gateway.core.ingress import Incoming
from gateway.core.message import Address, Message
from gateway.core.routes import QUEUE_KIND
from gateway.core.transform import Compression, Transform
from gateway.net.websocket import WebSocketOptions
from gateway.protocols.mqtt.settings import Settings as MqttSettings
from gateway.protocols.stomp import settings as stomp_settings
from gateway.protocols.stomp.versions import OFFERED
from tests.rig.certificates import Authority

Read = Callable[[str], Settings]

LISTENER = "listeners: [{protocol: mqtt, port: 1883}]\n"


@pytest.fixture
def refused(read: Read) -> Callable[[str], list[str]]:
    def lines(text: str) -> list[str]:
        settings = read(text)
        with pytest.raises(ConfigErrors) as caught:
            assemble(settings)
        return [line.removeprefix(f"{settings.source}: ") for line in str(caught.value).splitlines()]

    return lines


def test_folders_are_found_by_name() -> None:
    assert {"mqtt", "stomp"} <= set(protocol_names())
    assert {"firehose", "kinesis", "memory", "sqs"} <= set(backend_kinds())
    assert "aws" not in backend_kinds()


def test_a_listener_gets_its_protocol(read: Read) -> None:
    assembly = assemble(read("listeners: [{protocol: mqtt, port: 1, delivery_window: 7}, {protocol: stomp, port: 2}]"))
    first, second = assembly.listeners
    assert (first.key, first.settings.port, first.tls) == ("listeners.0", 1, None)
    assert isinstance(first.protocol_settings, MqttSettings)
    assert first.protocol_settings.delivery_window == 7
    assert second.open_session.__module__ == "gateway.protocols.stomp.session"


def test_a_rule_may_let_consumers_have_selectors(read: Read) -> None:
    rules = "routes:\n" + "".join(
        f"- {{match: {{queue: '{name}'}}, to: [{{sqs: '{name}'}}, {{sns: copies}}]{selectors}}}\n"
        for name, selectors in (
            ("none", ""),
            ("usual", ", selectors: {}"),
            ("jobs-{site}", ", selectors: {pass_over: 5}"),
        )
    )
    routes = assemble(read(LISTENER + rules)).routes
    homes = {name: routes.home(name) for name in ("none", "usual", "jobs-hall")}
    assert {name: home and home.pass_over for name, home in homes.items()} == {
        "none": None,
        "usual": 30.0,
        "jobs-hall": 5.0,
    }
    assert [copy.pass_over for copy in routes.copies("usual")] == [None]


def test_topics_are_listened_to(read: Read) -> None:
    assembly = assemble(
        read(
            LISTENER
            + "ingress:\n"
            + "- {sns: events, topic: 'in/{header:site}'}\n"
            + "- {sns: jobs.fifo, queue: jobs}\n"
            + "- {sns: letters, exchange: mail, key: 'a.{subject}', envelope: true}\n"
        )
    )
    events, jobs, letters = assembly.ingress
    native = Message(Address("", "q"), b"", headers={"site": "north.1"})
    assert events.rule.address(Incoming(native, {})) == Address("amq.topic", "in.north/1")
    assert (events.queue, events.spec.arguments["x-fifo"]) == ("mqlift-ingress-events", False)
    assert jobs.rule.address(Incoming(native, {})) == Address("", "jobs")
    assert (jobs.queue, jobs.spec.arguments["x-fifo"]) == ("mqlift-ingress-jobs.fifo", True)
    assert letters.rule.address(Incoming(native, {"subject": "b"})) == Address("mail", "a.b")
    assert "sns" in assembly.kinds


def test_adapters_get_their_sections(read: Read) -> None:
    large = "large_payloads: {bucket: payloads, threshold: 1000}"
    settings = read(LISTENER + f"sqs: {{{large}}}\nsns: {{{large}, message_bytes: 1048576}}\n")
    assert assemble(settings).kinds == ("kinesis", "sqs")
    for kind in ("sqs", "sns"):
        assert open_backend(kind, Nothing(), settings).limits.entry_bytes == 128 * 1024 * 1024  # type: ignore[arg-type]
    assert open_backend("sns", Nothing(), settings).limits.batch_bytes == 1_048_576  # type: ignore[arg-type]


class Nothing:
    """An AWS client that is not called."""


def test_rules_become_routes(read: Read) -> None:
    assembly = assemble(
        read(
            LISTENER
            + "routes:\n"
            + "- {match: {topic: 'a/{site}'}, to: [{queue: 'in-{site}'}, {sqs: 'all-{site}', group_id: '{site}'}]}\n"
            + "- {match: {exchange: logs, key: '#.error'}, to: [{sqs: errors}]}\n"
            + "- {match: {queue: 'in-*'}, to: [{sqs: inbox}]}\n"
        )
    )
    hub, all_sites = assembly.routes.for_publish(Address("amq.topic", "a.hall"))
    assert (hub.kind, hub.name) == (QUEUE_KIND, "in-hall")
    assert (all_sites.kind, all_sites.name, all_sites.captures) == ("sqs", "all-hall", {"site": "hall"})
    assert assembly.routes.for_publish(Address("logs", "app.error"))[0].name == "errors"
    home = assembly.routes.home("in-hall")
    assert home is not None
    assert (home.name, home.queue) == ("inbox", "in-hall")
    assert assembly.kinds == ("kinesis", "sqs")


def test_what_every_target_may_have(read: Read) -> None:
    assembly = assemble(
        read(
            LISTENER
            + "routes:\n"
            + "- match: {topic: 'a/{device}'}\n"
            + "  to:\n"
            + "  - {kinesis: telemetry, partition_key: '{device}', envelope: json}\n"
            + '  - {firehose: archive, delimiter: "\\n", compression: gzip, best_effort: true}\n'
            + "  - {sqs: copies, content_type: text/plain}\n"
            + "- {match: {queue: q}, to: [{sqs: q}, {firehose: archive, best_effort: true}]}\n"
        )
    )
    stream, archive, copies = assembly.routes.for_publish(Address("amq.topic", "a.7"))
    assert (stream.kind, stream.name, stream.captures) == ("kinesis", "telemetry", {"device": "7"})
    assert (stream.transform, stream.best_effort) == (Transform(envelope=True), False)
    assert (archive.transform, archive.best_effort) == (Transform(compression=Compression.GZIP), True)
    assert (copies.transform, copies.best_effort) == (Transform(content_type="text/plain"), False)
    assert assembly.kinds == ("firehose", "kinesis", "sqs")


def test_aws_is_checked(read: Read) -> None:
    assert assemble(read(LISTENER + "aws: {region: eu-west-1}")).aws.region == "eu-west-1"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("aws: {regoin: x}", "aws.regoin: there is no such key; did you mean region?"),
        ("aws: {transport: fast}", "aws.transport: 'fast' is not one of the choices; 'lean' or 'aiobotocore'"),
        (
            "aws: {secret_access_key: hunter2}",
            "aws.secret_access_key: there is no such key; known are ",
        ),
        (
            "aws: {endpoint_url: 'ftp://x'}",
            "aws.endpoint_url: 'ftp://x' cannot be used; must be http://HOST[:PORT]",
        ),
        (
            "routes: [{match: {queue: q}, to: [{kinesis: s, tail: a}]}]",
            "routes.0.to.0.tail: only topics have live subscribers",
        ),
        (
            "routes: [{match: {topic: t}, to: [{kinesis: s, enhanced_fan_out: [c]}]}]",
            "routes.0.to.0.enhanced_fan_out: nothing is read from there by this rule; leave it out; it is for",
        ),
        (
            "routes: [{match: {queue: q}, to: [{sqs: q}, {kinesis: s, enhanced_fan_out: [c]}]}]",
            "routes.0.to.1.enhanced_fan_out: nothing is read from there",
        ),
        (
            "workers: 2\nroutes: [{match: {queue: q}, to: [{kinesis: s, enhanced_fan_out: [c]}]}]",
            "routes.0.to.0.enhanced_fan_out: workers would take each other's subscriptions away; run 1 worker",
        ),
        (
            "routes: [{match: {topic: 'a/#/b'}, to: [{queue: q}]}]",
            "routes.0.match.topic: '#' is the rest of a topic and stands last",
        ),
        ("routes: [{match: {queue: ''}, to: [{sqs: q}]}]", "routes.0.match.queue: the name of a queue is never empty"),
        ("routes: [{match: {queue: '{a}{b}'}, to: [{sqs: q}]}]", "routes.0.match.queue: nothing separates two"),
        (
            "routes: [{match: {exchange: amq.topic}, to: [{queue: q}]}]",
            "routes.0.match.exchange: messages on amq.topic are matched as topics; write topic:",
        ),
        ("routes: [{match: {exchange: ''}, to: [{queue: q}]}]", "routes.0.match.exchange: the default exchange has"),
        (
            "routes: [{match: {exchange: x, key: 'a#'}, to: [{queue: q}]}]",
            "routes.0.match.key: '#' in 'a#': a wildcard",
        ),
        (
            "routes: [{match: {topic: a}, to: [{sqss: q}]}]",
            "routes.0.to.0.sqss: no such kind of target; did you mean sqs?",
        ),
        ("routes: [{match: {topic: a}, to: [{zzzzz: q}]}]", "routes.0.to.0: has no kind of target; one of queue, "),
        ("routes: [{match: {topic: a}, to: [{}]}]", "routes.0.to.0: has no kind of target; one of queue, "),
        (
            "routes: [{match: {topic: a}, to: [{sqs: q}, {sqs: q, queue: q}]}]",
            "routes.0.to.1: sqs and queue are both given; write one target for each",
        ),
        ("routes: [{match: {topic: a}, to: [{queue: 5}]}]", "routes.0.to.0.queue: is not the name of a queue; the"),
        ("routes: [{match: {topic: a}, to: [{queue: q, x: 1}]}]", "routes.0.to.0.x: a queue of the gateway has no"),
        (
            "routes: [{match: {topic: 'a/{b}'}, to: [{queue: '{c}'}]}]",
            "routes.0.to.0.queue: unknown field {c}; known are {b}",
        ),
        (
            "routes: [{match: {queue: a}, to: [{queue: b}]}]",
            "routes.0.to.0.queue: a queue cannot live in another queue of the gateway; name a resource first",
        ),
        (
            "routes: [{match: {queue: a}, to: [{sns: b}, {sqs: a}]}]",
            "routes.0.to.0.sns: a queue cannot live here; name what keeps it first, such as sqs:",
        ),
        (
            "routes: [{match: {queue: a}, to: [{firehose: b}]}]",
            "routes.0.to.0.firehose: a queue cannot live here; name what keeps it first, such as sqs:",
        ),
        (
            "routes: [{match: {queue: a}, to: [{sqs: a}, {sns: b, fanout: true}]}]",
            "routes.0.to.1.fanout: nothing is bound to a queue; give it where a topic or an exchange is matched",
        ),
        (
            "routes: [{match: {queue: a}, to: [{kinesis: s}], selectors: {}}]",
            "routes.0.selectors: a stream is not filtered; leave it out, or name sqs: first",
        ),
        (
            "routes: [{match: {queue: 'a{b}'}, to: [{sqs: 'a{b}.fifo'}], selectors: {pass_over: 5}}]",
            "routes.0.selectors: of a FIFO queue, a message that nobody takes would hold up its group; leave it out",
        ),
        (
            "routes: [{match: {queue: a}, to: [{sns: b}], selectors: {}}]",
            "routes.0.to.0.sns: a queue cannot live here; name what keeps it first, such as sqs:",
        ),
        (
            "routes: [{match: {topic: a}, to: [{sns: b, fanout: true, best_effort: true}]}]",
            "routes.0.to.0.fanout: queues are not to lose what the topic does not take; leave best_effort out",
        ),
        (
            "routes: [{match: {topic: a}, to: [{sns: b, fanout: true, compression: gzip}]}]",
            "routes.0.to.0.fanout: the queues would get what the rule makes of a message for the topic; leave compr",
        ),
        (
            "provision: never\nroutes: [{match: {topic: a}, to: [{sns: b, fanout: true}]}]",
            "routes.0.to.0.fanout: the gateway makes the subscriptions, which `provision: never` forbids; leave it",
        ),
        (
            "sns: {large_payloads: {bucket: abc}}\nroutes: [{match: {topic: a}, to: [{sns: b, fanout: true}]}]",
            "routes.0.to.0.fanout: with sns.large_payloads, queues would share a body in S3; leave it out, or sns.",
        ),
        ("sns: {fanout_wait: -1}", "sns.fanout_wait: "),
        ("ingress: [{sns: a b, topic: t}]", "ingress.0.sns: 'a b' is not a name that SNS allows"),
        ("ingress: [{sns: a, topic: 't/{colour}'}]", "ingress.0.topic: unknown field {colour}; known are"),
        ("ingress: [{sns: a, topic: '{subject}'}]", "ingress.0.topic: unknown field {subject}"),
        (
            "ingress: [{sns: a, topic: t}, {sns: 'arn:aws:sns:eu-west-1:111122223333:a', queue: q}]",
            "ingress.1.sns: topic arn:aws:sns:eu-west-1:111122223333:a is that of ingress.0 already",
        ),
        ("sqs: {large_payload: {}}", "sqs.large_payload: there is no such key; did you mean large_payloads?"),
        ("sqs: {large_payloads: {}}", "sqs.large_payloads.bucket: "),
        ("sns: {message_bytes: 2000000}", "sns.message_bytes: "),
        (
            "limits: {gateway: {large_body_bytes: 1048576}}",
            "limits.gateway.large_body_bytes: 1048576 bytes have no room for a message of listeners.0, which may have ",
        ),
        (
            "routes: [{match: {topic: 'a/{b}'}, to: [{sqs: 'q-{c}'}]}]",
            "routes.0.to.0.sqs: unknown field {c}; known are {b}",
        ),
        ("routes: [{match: {topic: a}, to: [{sqs: q, group: x}]}]", "routes.0.to.0.group: an sqs target has no such"),
        (
            "routes: [{match: {topic: a}, to: [{kinesis: s, compression: lz4}]}]",
            "routes.0.to.0.compression: 'lz4' is not one of the choices; write gzip or zstd, or leave it out",
        ),
        (
            "routes: [{match: {topic: a}, to: [{sqs: q, best_effort: 1}]}]",
            "routes.0.to.0.best_effort: 1 is neither true nor false; true or false",
        ),
        (
            "routes: [{match: {queue: a}, to: [{sqs: q, best_effort: true}]}]",
            "routes.0.to.0.best_effort: a queue lives in its first target, which has to take every message; leave it",
        ),
        (
            "routes: [{match: {topic: a}, to: [{queue: q, best_effort: true}]}]",
            "routes.0.to.0.best_effort: a queue of the gateway has no options",
        ),
        (
            "routes: [{match: {topic: a}, to: [{kinesis: s, partition_key: '{b}'}]}]",
            "routes.0.to.0.partition_key: unknown field {b}; known are {client_id}",
        ),
    ],
)
def test_mistakes(text: str, line: str, refused: Callable[[str], list[str]]) -> None:
    (found,) = refused(LISTENER + text)
    assert found.startswith(line)
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("listener", "line"),
    [
        ("{protocol: mqqt, port: 1}", "listeners.0.protocol: no protocol 'mqqt'; did you mean mqtt?"),
        ("{protocol: ../x, port: 1}", "listeners.0.protocol: no protocol '../x'; there are "),
        (
            "{protocol: mqtt, port: 1, max_conections: 5}",
            "listeners.0.max_conections: there is no such key; did you mean ",
        ),
        (
            "{protocol: mqtt, port: 1, delivery_windw: 5}",
            "listeners.0.delivery_windw: there is no such key; did you mean ",
        ),
        ("{protocol: mqtt, port: 1, delivery_window: 0}", "listeners.0.delivery_window: 0 is too small; 1 or more"),
        (
            "{protocol: stomp, port: 1, default_prefetch: 5, max_prefetch: 4}",
            "listeners.0: default_prefetch is over max_prefetch",
        ),
        (
            "{protocol: mqtt, port: 1, tls: {certificate: /absent, key: /absent}}",
            "listeners.0.tls.certificate: cannot load /absent with /absent: No such file or directory; PEM files",
        ),
    ],
)
def test_mistakes_in_listeners(listener: str, line: str, refused: Callable[[str], list[str]]) -> None:
    (found,) = refused(f"listeners: [{listener}]")
    assert found.startswith(line)


def test_all_mistakes_are_told_at_once(refused: Callable[[str], list[str]]) -> None:
    lines = refused(
        "aws: {x: 1}\nlisteners: [{protocol: mqtt, port: 1, a: 1, b: 2}, {protocol: x, port: 2}]\n"
        "routes: [{match: {topic: a}, to: [{sqs: ''}, {queue: ''}]}, {match: {topic: ''}, to: [{queue: a}]}]"
    )
    assert [line.split(": ")[0] for line in lines] == [
        "aws.x",
        "listeners.0.a",
        "listeners.0.b",
        "listeners.1.protocol",
        "routes.0.to.0.sqs",
        "routes.0.to.1.queue",
        "routes.1.match.topic",
    ]


def test_a_mistake_that_came_by_the_environment_names_the_variable(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQLIFT_AWS__REGOIN", "x")
    with pytest.raises(ConfigErrors) as caught:
        assemble(read(LISTENER))
    assert str(caught.value).startswith("environment: MQLIFT_AWS__REGOIN: aws.regoin: there is no such key")


def test_tls_files_are_loaded(read: Read, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    settings = read(f"listeners: [{{protocol: mqtt, port: 1, tls: {{certificate: {broken}, key: {broken}}}}}]")
    with pytest.raises(ConfigErrors, match=r"listeners\.0\.tls\.certificate: cannot load"):
        assemble(settings)


def test_tls_files_become_a_context(read: Read, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("localhost")
    tls = f"{{certificate: {certificate}, key: {key}, client_ca: {authority.path}, client_certificates: required}}"
    (part,) = assemble(read(f"listeners: [{{protocol: mqtt, port: 1, tls: {tls}}}]")).listeners
    assert part.tls is not None
    assert part.tls.context.verify_mode is ssl.CERT_REQUIRED


def test_websockets_are_as_the_protocol_has_them(read: Read) -> None:
    tcp, mqtt, stomp = assemble(
        read(
            "listeners: [{protocol: mqtt, port: 1},"
            "{protocol: mqtt, port: 2, transport: websocket, max_packet_size: 5000},"
            "{protocol: stomp, port: 3, transport: websocket, max_body: 5000, max_header_section: 2000,"
            " paths: [/a, /b/c], origins: ['https://example.com']}]"
        )
    ).listeners
    assert tcp.websocket is None
    assert mqtt.websocket == WebSocketOptions(
        paths=("/mqtt",), subprotocols=("mqtt", "mqttv3.1"), subprotocol_required=True, text=False, max_packet=5000
    )
    assert stomp.websocket == WebSocketOptions(
        paths=("/a", "/b/c"),
        subprotocols=("v12.stomp", "v11.stomp", "v10.stomp"),
        subprotocol_required=False,
        text=True,
        max_packet=7000,
        origins=("https://example.com",),
    )


def test_a_protocol_without_a_form_for_websockets(
    refused: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("gateway.protocols.stomp.settings.WEBSOCKET_PATHS")
    assert refused("listeners: [{protocol: stomp, port: 1, transport: websocket}]") == [
        "listeners.0.transport: stomp has no form for WebSockets; write tcp, or leave it out"
    ]


def test_the_subprotocols_of_stomp_are_the_versions_that_are_offered() -> None:
    assert set(stomp_settings.WEBSOCKET_SUBPROTOCOLS) == {f"v{name.replace('.', '')}.stomp" for name in OFFERED}
