"""Settings from a file and the environment, and every mistake in a line of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from config.mistakes import ConfigErrors
from config.settings import Settings, load
from gateway.core.errors import ConfigError

Read = Callable[[str], Settings]
Mistakes = Callable[[str], list[str]]
Write = Callable[[str], Path]

LISTENER = "listeners: [{protocol: mqtt, port: 1883}]\n"

PLACES = "write 'memory:', 'sqlite:///absolute/path/of/state.db', or 'dynamodb://TABLE'"


def test_defaults(read: Read) -> None:
    settings = read(LISTENER)
    assert (settings.prefix, settings.provision, settings.state) == ("", "auto", "memory:")
    assert (settings.admin.host, settings.admin.port) == ("127.0.0.1", 9090)
    assert settings.auth.anonymous is False
    assert settings.routes == ()
    (listener,) = settings.listeners
    assert (listener.protocol, listener.host, listener.port, listener.tls) == ("mqtt", "127.0.0.1", 1883, None)
    assert settings.limits.gateway.inflight_messages == 100_000
    assert (settings.sender.linger, settings.receiver.visibility) == (0, 30)
    assert (settings.log.level, settings.log.format) == ("info", "console")


def test_a_listener_keeps_the_keys_of_its_protocol(read: Read) -> None:
    (listener,) = read("listeners: [{protocol: mqtt, port: 1, max_packet_size: 5}]").listeners
    assert listener.options == {"max_packet_size": 5}


def test_the_environment_wins_over_the_file(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQLIFT_PREFIX", "env-")
    monkeypatch.setenv("mqlift_admin__port", "9191")
    monkeypatch.setenv("MQLIFT_LIMITS__GATEWAY__INFLIGHT_MESSAGES", "7")
    monkeypatch.setenv("MQLIFT_AWS__REGION", "eu-west-1")
    settings = read(LISTENER + "prefix: file-\nadmin: {host: 127.0.0.2}\naws: {profile: p, region: r}\n")
    assert settings.prefix == "env-"
    assert (settings.admin.host, settings.admin.port) == ("127.0.0.2", 9191)
    assert settings.limits.gateway.inflight_messages == 7
    assert settings.aws == {"profile": "p", "region": "eu-west-1"}


def test_lists_and_sections_in_the_environment_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQLIFT_LISTENERS", '[{"protocol": "stomp", "port": 61613}]')
    monkeypatch.setenv("MQLIFT_ROUTES", '[{"match": {"topic": "a"}, "to": [{"queue": "b"}]}]')
    monkeypatch.setenv("MQLIFT_LOG", '{"format": "json"}')
    settings = load(None)
    assert settings.listeners[0].protocol == "stomp"
    assert settings.routes[0].to == ({"queue": "b"},)
    assert settings.log.format == "json"


def test_variables_of_the_command_line_are_no_settings(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQLIFT_PASSWORD", "x")
    read(LISTENER)


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        (
            "MQLIFT_LISTNERS",
            "[]",
            "environment: MQLIFT_LISTNERS: there is no such setting; did you mean MQLIFT_LISTENERS?",
        ),
        (
            "MQLIFT_ADMIN__PROT",
            "1",
            "environment: MQLIFT_ADMIN__PROT: there is no such setting; did you mean MQLIFT_ADMIN__PORT?",
        ),
        (
            "MQLIFT_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "1",
            "environment: MQLIFT_ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ: there is no such setting; names are MQLIFT_KEY or ",
        ),
        (
            "MQLIFT_ADMIN__PORT",
            "x",
            "environment: MQLIFT_ADMIN__PORT: admin.port: 'x' is not a whole number; a number such as 10",
        ),
        (
            "MQLIFT_LISTENERS",
            "{not json",
            "environment: MQLIFT_LISTENERS: listeners: '{not json' is not a list; put each item ",
        ),
        (
            "MQLIFT_ROUTES",
            '[{"match": {"topic": 5}, "to": [{"queue": "b"}]}]',
            "environment: MQLIFT_ROUTES: routes.0.match.topic: 5 is not text; put it in quotes",
        ),
    ],
)
def test_mistakes_in_the_environment(
    variable: str, value: str, line: str, mistakes: Mistakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    (found,) = mistakes(LISTENER)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("prefix: 5", "prefix: 5 is not text; put it in quotes"),
        ("ingress: [{sns: a}]", "ingress.0: says nothing about where it goes; one of topic, exchange or queue"),
        (
            "ingress: [{sns: a, topic: t, queue: q}]",
            "ingress.0: topic and queue are both given; one of topic, exchange",
        ),
        ("ingress: [{sns: a, topic: t, key: k}]", "ingress.0.key: a topic has no key; leave it out, or name an"),
        (
            "ingress: [{sns: a, topic: t, envelope: true, filter: true}]",
            "ingress.0.filter: is for subscriptions that the gateway makes, and those deliver raw; leave one out",
        ),
        ("prefix: a/b", "prefix: 'a/b' has a character that is not allowed; a text that matches ^[A-Za-z0-9_-]*$"),
        (f"prefix: {'a' * 41}", f"prefix: '{'a' * 41}' is too long; 40 characters at most"),
        ("provision: maybe", "provision: 'maybe' is not one of the choices; 'auto' or 'never'"),
        ("provision: no", "provision: false is not one of the choices; 'auto' or 'never'"),
        ("provison: auto", "provison: there is no such key; did you mean provision?"),
        (
            "state: redis://x",
            f"state: 'redis://x' is no place for state; {PLACES}",
        ),
        (
            "state: sqlite://a.db",
            f"state: 'sqlite://a.db' is no place for state; {PLACES}",
        ),
        (
            "state: dynamodb://t",
            "state: 'dynamodb://t' does not end in the name of a table; 3 to 255 letters, digits, _ . and -",
        ),
        (
            "state: 'sqlite:///'",
            f"state: 'sqlite:///' is no place for state; {PLACES}",
        ),
        ("admin: 9090", "admin: 9090 is not a mapping; keys and values, as in {key: value}"),
        ("admin: {port: 70000}", "admin.port: 70000 is too large; 65535 or less"),
        ("admin: {port: -1}", "admin.port: -1 is too small; 0 or more"),
        ("admin: {port: null}", "admin.port: nothing is not a whole number; a number such as 10"),
        ("admin: {port: 1883}", "admin.port: port 1883 is that of listeners.0 already; another port"),
        ("auth: {anonymous: 7}", "auth.anonymous: 7 is neither true nor false; true or false"),
        ("drain_timeout: 0", "drain_timeout: 0 is too small; more than 0"),
        ("drain_timeout: .inf", "drain_timeout: inf is not a number; a number such as 10"),
        ("sender: {linger: soon}", "sender.linger: 'soon' is not a number; a number such as 10"),
        ("sender: {requests: 1.5}", "sender.requests: 1.5 is not a whole number; a number such as 10"),
        ("receiver: {visibility: 50000}", "receiver.visibility: 50000 is too large; 43200 or less"),
        (
            "limits: {connection: {inflight_mesages: 1}}",
            "limits.connection.inflight_mesages: there is no such key; did you mean inflight_messages?",
        ),
        ("log: {zzz: 1}", "log.zzz: there is no such key; known are audit, audit_file, format, level"),
        (
            "routes: {a: b}",
            "routes: a mapping is not a list; put each item on its own line behind '- '; in the environment, ",
        ),
        ("routes: [{to: [{queue: a}]}]", "routes.0.match: is missing; set it"),
        (
            "routes: [{match: {topic: a}, to: []}]",
            "routes.0.to: is empty; one target at least, such as - {queue: orders}",
        ),
        (
            "routes: [{match: {topic: a}, to: [orders]}]",
            "routes.0.to.0: 'orders' is not a mapping; keys and values, as in {key: value}",
        ),
        (
            "routes: [{match: {topic: a, queue: b}, to: [{queue: a}]}]",
            "routes.0.match: topic and queue are both given; one of topic, queue or exchange; write a rule for each",
        ),
        (
            "routes: [{match: {}, to: [{queue: a}]}]",
            "routes.0.match: says nothing to match; one of topic, queue or exchange; write a rule for each",
        ),
        (
            "routes: [{match: {topic: a}, to: [{queue: a}], selectors: {}}]",
            "routes.0.selectors: subscriptions to topics have selectors without a rule, and exchanges have no",
        ),
        (
            "routes: [{match: {queue: a}, to: [{sqs: a}], selectors: {pass_over: 0.5}}]",
            "routes.0.selectors.pass_over: the value is too small; 1.0 or more",
        ),
        (
            "routes: [{match: {queue: a}, to: [{sqs: a}], selectors: {pass_over: 4000}}]",
            "routes.0.selectors.pass_over: the value is too large; 3600.0 or less",
        ),
        (
            "routes: [{match: {queue: a}, to: [{sqs: a}], selectors: {passover: 5}}]",
            "routes.0.selectors.passover: there is no such key; did you mean pass_over?",
        ),
        (
            "routes: [{match: {queue: a, key: b}, to: [{queue: a}]}]",
            "routes.0.match.key: a queue has no key; leave it out, or match an exchange",
        ),
        ("aws: text", "aws: 'text' is not a mapping; keys and values, as in {key: value}"),
    ],
)
def test_mistakes_in_the_file(text: str, line: str, mistakes: Mistakes) -> None:
    (found,) = mistakes(LISTENER + text)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("listeners", "line"),
    [
        ("[]", "listeners: is empty; one listener at least, such as - {protocol: mqtt, port: 1883}"),
        ("[{protocol: mqtt}]", "listeners.0.port: is missing; set it"),
        ("[{port: 1}]", "listeners.0.protocol: is missing; set it"),
        (
            "[{protocol: mqtt, port: 1}, {protocol: stomp, port: 1}]",
            "listeners.1.port: port 1 is that of listeners.0 already; give each listener its own port",
        ),
        (
            "[{protocol: mqtt, host: '::', port: 1}, {protocol: stomp, port: 1}]",
            "listeners.1.port: port 1 is that of listeners.0 already; give each listener its own port",
        ),
        (
            "[{protocol: mqtt, port: 1, tls: {certificate: a, key: b, client_certificates: required}}]",
            "listeners.0.tls.client_ca: client certificates cannot be verified; set client_ca to a PEM file",
        ),
        (
            "[{protocol: mqtt, port: 1, paths: [/mqtt]}]",
            "listeners.0.paths: is for WebSockets only; set transport to websocket, or leave it out",
        ),
        (
            "[{protocol: mqtt, port: 1, transport: tcp, origins: ['https://example.com']}]",
            "listeners.0.origins: is for WebSockets only; set transport to websocket, or leave it out",
        ),
        (
            "[{protocol: mqtt, port: 1, transport: websocket, paths: [mqtt]}]",
            "listeners.0.paths.0: 'mqtt' has a character that is not allowed; a text that matches ",
        ),
        (
            "[{protocol: mqtt, port: 1, transport: websocket, paths: ['/mqtt?x']}]",
            "listeners.0.paths.0: '/mqtt?x' has a character that is not allowed; a text that matches ",
        ),
        (
            "[{protocol: mqtt, port: 1, transport: udp}]",
            "listeners.0.transport: 'udp' is not one of the choices; 'tcp' or 'websocket'",
        ),
        (
            "[{protocol: mqtt, port: 1, proxy_protocol: v2}]",
            "listeners.0.proxy_protocol: 'v2' is neither true nor false",
        ),
        (
            "[{protocol: mqtt, port: 1, tls: {certificate: a, key: b, client_ca: c}}]",
            "listeners.0.tls.client_certificates: no client certificate is asked for; set optional or required, or ",
        ),
    ],
)
def test_mistakes_in_listeners(listeners: str, line: str, mistakes: Mistakes) -> None:
    (found,) = mistakes(f"listeners: {listeners}")
    assert found.startswith(line)


@pytest.mark.parametrize(
    "listeners",
    [
        "[{protocol: mqtt, port: 0}, {protocol: stomp, port: 0}]",
        "[{protocol: mqtt, port: 1, host: 127.0.0.1}, {protocol: stomp, port: 1, host: 127.0.0.2}]",
    ],
)
def test_listeners_may_share_a_port_on_other_addresses(listeners: str, read: Read) -> None:
    assert len(read(f"listeners: {listeners}").listeners) == 2


def test_all_mistakes_are_told_at_once(mistakes: Mistakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQLIFT_LGO", "x")
    lines = mistakes("listeners: [{protocol: mqtt}, {port: x}]\nprefix: 1\nlog: {level: loud}\nfoo: 1\n")
    assert [line.split(": ")[0] for line in lines] == [
        "prefix",
        "listeners.0.port",
        "listeners.1.protocol",
        "listeners.1.port",
        "log.level",
        "foo",
        "environment",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "is empty; at least listeners: with one listener"),
        ("# only a comment\n", "is empty; at least listeners: with one listener"),
        ("- a\n- b\n", "is not a mapping; keys and values, such as 'prefix: test-'"),
        ("prefix: a\n  state: b\n", "line 2: mapping values are not allowed here; check indentation"),
        ("prefix: a\nlisteners: [\n", "line 3: expected the node content"),
        ("prefix: 'a\n", "line 2: found unexpected end of stream; check"),
        ("prefix: a\nstate: b\nprefix: c\n", "line 3: key 'prefix' is set twice; check"),
        ("prefix: !!python/object:os.system a\n", "line 1: could not determine a constructor for the tag"),
        ("\tprefix: a\n", "line 1: found character '\\t' that cannot start any token"),
        ("prefix: a\nstate: \x07\n", "line 2: character U+0007 is not allowed; remove it"),
        ("1: a\n", "1: the key is not text; put it in quotes"),
        ("[" * 5000, "is nested too deeply"),
    ],
)
def test_files_that_are_no_configuration(text: str, line: str, mistakes: Mistakes) -> None:
    (found,) = mistakes(text)
    assert found.startswith(line)


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"prefix: a\n# caf\xe9\n")
    with pytest.raises(ConfigErrors, match=r"line 2: is not UTF-8 text; save the file as UTF-8$"):
        load(path)


@pytest.mark.parametrize(("name", "reason"), [("absent.yaml", "No such file or directory"), (".", "Is a directory")])
def test_files_that_cannot_be_read(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        load(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: cannot be read: {reason}; the path of a YAML file"


def test_a_file_of_any_size_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * (5 * 1024 * 1024))
    with pytest.raises(ConfigErrors, match="is larger than 4194304 bytes"):
        load(path)


def test_merge_keys_of_yaml_work(read: Read) -> None:
    settings = read("listeners:\n- &base {protocol: mqtt, port: 1, max_connections: 5}\n- {<<: *base, port: 2}\n")
    assert [(each.port, each.max_connections) for each in settings.listeners] == [(1, 5), (2, 5)]


def test_errors_are_a_group_and_one_error(write: Write) -> None:
    path = write(LISTENER + "prefix: 1\nlog: {level: loud}\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert isinstance(caught.value, ConfigErrors)
    assert [error.key for error in caught.value.errors] == [f"{path}: prefix", f"{path}: log.level"]
    assert caught.value.errors[0].problem == "1 is not text"


def test_a_long_value_is_shown_in_part_and_a_secret_not_at_all(mistakes: Mistakes) -> None:
    (line,) = mistakes(LISTENER + f"provision: {'x' * 10_000}")
    assert len(line) < 200
    (line,) = mistakes(LISTENER + "admin: {password: hunter2}")
    assert "hunter2" not in line
    assert "there is no such key" in line


def test_what_may_hold_secrets_is_not_in_the_representation(read: Read) -> None:
    assert "hunter2" not in repr(read(LISTENER + "aws: {secret_access_key: hunter2}"))


def test_settings_do_not_change(read: Read) -> None:
    settings = read(LISTENER)
    with pytest.raises(ValueError, match="frozen"):
        settings.prefix = "x"


def test_settings_know_their_file(write: Write) -> None:
    path = write(LISTENER)
    assert load(path).source == str(path)
