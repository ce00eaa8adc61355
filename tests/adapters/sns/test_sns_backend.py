import asyncio
from collections.abc import Mapping
from dataclasses import replace

import orjson
import pytest

from adapters.aws.payloads import MAX_PAYLOAD, LargePayloadSettings
from adapters.sns.backend import SnsBackend, open_backend
from adapters.sns.settings import Settings, parse_target
from gateway.core.backend import NO_CAPTURES, Provision, QueueSpec, Target
from gateway.core.errors import AccessDenied, BackendError, Invalid, NotFound, TooLarge, Unavailable
from gateway.core.fanout import TOLD
from gateway.core.message import NO_HEADERS, PERSISTENT, Address, Headers, Message, Origin
from gateway.core.outcome import ACCEPTED, Outcome
from tests.adapters.sns.scripted_sns import ACCOUNT, ScriptedSns, accepted, attributes, entries
from tests.rig.clock import on_clock

ARN = f"arn:aws:sns:eu-west-1:{ACCOUNT}:events"
DEVICE = Origin("mqtt", "dev-1", "alice")


def topic(name: str = "events", captures: Mapping[str, str] = NO_CAPTURES, **options: object) -> Target:
    parsed = parse_target(name, options, frozenset(captures))
    return Target(kind="sns", name=name, options=parsed.options, captures=captures)


def message(body: bytes = b"x", headers: Headers = NO_HEADERS, origin: Origin = DEVICE) -> Message:
    return Message(Address("amq.topic", "events.1"), body, PERSISTENT, headers, origin)


async def publish(backend: SnsBackend, target: Target, *messages: Message) -> list[Outcome]:
    results = await backend.send(target, [backend.encode(target, each) for each in messages])
    return [result.outcome for result in results]


async def published(sns: ScriptedSns, backend: SnsBackend, target: Target, one: Message) -> dict[str, str]:
    """The entry that SNS gets for one message."""
    assert await publish(backend, target, one) == [Outcome.ACCEPTED]
    (entry,) = entries(sns.calls[-1].request)
    return entry


class TestEncode:
    async def test_an_entry(self, sns: ScriptedSns, backend: SnsBackend) -> None:
        entry = await published(sns, backend, topic(), message(b'{"a": "1&2"}'))
        assert (entry["Id"], entry["Message"]) == ("0", '{"a": "1&2"}')
        found = attributes(entry)
        assert orjson.loads(found.pop("mqlift.meta")[1])["k"] == "events.1"
        assert found == {"mqlift.origin": ("String", "mqlift"), "mqlift.key": ("String", "events.1")}
        assert "Subject" not in entry
        assert "MessageGroupId" not in entry

    async def test_replicas_are_known_by_their_prefix(self, sns: ScriptedSns) -> None:
        entry = await published(sns, open_backend(sns, prefix="prod-", provision="auto"), topic(), message())
        assert attributes(entry)["mqlift.origin"] == ("String", "prod-")

    @pytest.mark.parametrize(("body", "text", "encoding"), [(b"\x00\xff", "AP8=", "base64"), (b"", "-", "empty")])
    async def test_what_sns_cannot_carry_is_marked(
        self, sns: ScriptedSns, backend: SnsBackend, body: bytes, text: str, encoding: str
    ) -> None:
        entry = await published(sns, backend, topic(), message(body))
        assert entry["Message"] == text
        assert attributes(entry)["mqlift.encoding"] == ("String", encoding)

    async def test_headers_are_shown(self, sns: ScriptedSns, backend: SnsBackend) -> None:
        headers: Headers = {"tenant": "a&b", "count": 7, "raw": b"\x00\xff", "none": None, "hidden": "x"}
        target = topic(attributes=["tenant", "count", "raw", "none"])
        found = attributes(await published(sns, backend, target, message(headers=headers)))
        assert found["tenant"] == ("String", "a&b")
        assert found["count"] == ("Number", "7")
        assert found["raw"] == ("Binary", "AP8=")
        assert not {"none", "hidden"} & found.keys()

    @pytest.mark.parametrize(
        ("rendered", "subject"),
        [("alarm 7", "alarm 7"), ("two\nlines", "two lines"), ("x" * 200, "x" * 99), ("", None), ("\x00", None)],
    )
    async def test_subjects(self, sns: ScriptedSns, backend: SnsBackend, rendered: str, subject: str | None) -> None:
        entry = await published(sns, backend, topic(subject="{header:s}"), message(headers={"s": rendered}))
        assert entry.get("Subject") == subject

    async def test_fifo_topics(self, sns: ScriptedSns, backend: SnsBackend) -> None:
        target = topic("events.fifo", {"site": "north"}, group_id="{site}", deduplication_id="{property:message_id}")
        entry = backend.encode(target, message())
        assert entry.key == "north"
        first, second = [await published(sns, backend, target, message()) for _ in range(2)]
        assert first["MessageGroupId"] == "north"
        assert first["MessageDeduplicationId"] != second["MessageDeduplicationId"]

    async def test_a_group_makes_queues_fair(self, sns: ScriptedSns, backend: SnsBackend) -> None:
        target = topic(group_id="{client_id}")
        assert backend.encode(target, message()).key is None
        assert (await published(sns, backend, target, message()))["MessageGroupId"] == "dev-1"

    def test_the_largest_message(self, backend: SnsBackend) -> None:
        overhead = backend.encode(topic(), message()).size - 1
        largest = backend.limits.entry_bytes - overhead
        assert backend.limits.entry_bytes == 262_144
        assert backend.encode(topic(), message(b"x" * largest)).size == 262_144
        with pytest.raises(TooLarge, match="262144"):
            backend.encode(topic(), message(b"x" * (largest + 1)))

    def test_an_account_may_have_more(self, sns: ScriptedSns) -> None:
        opted_in = open_backend(sns, prefix="", provision="auto", settings=Settings(message_bytes=1_048_576))
        assert opted_in.encode(topic(), message(b"x" * 1_000_000)).size > 1_000_000

    def test_the_size_is_what_sns_counts(self, sns: ScriptedSns, backend: SnsBackend) -> None:
        headers: Headers = {"tenant": "grüße", "raw": b"\x00\xff\x01"}
        target = topic(attributes=["tenant", "raw"])
        entry = backend.encode(target, message("größer".encode(), headers))
        asyncio.run(backend.send(target, [entry]))
        (sent,) = entries(sns.calls[-1].request)
        expected = len(sent["Message"].encode()) + sum(
            len(name) + len(kind) + (3 if kind == "Binary" else len(value.encode()))
            for name, (kind, value) in attributes(sent).items()
        )
        assert entry.size == expected


class TestSend:
    @pytest.mark.parametrize("count", range(1, 11))
    async def test_every_entry_has_its_own_result(self, sns: ScriptedSns, backend: SnsBackend, count: int) -> None:
        def every_third_fails(request: dict[str, str]) -> object:
            ids = [entry["Id"] for entry in entries(request)]
            return {
                "Successful": [{"Id": each} for each in ids if int(each) % 3 == 0],
                "Failed": [{"Id": each, "Code": "InternalError"} for each in ids if int(each) % 3 == 1]
                + [{"Id": each, "Code": "InvalidParameter"} for each in ids if int(each) % 3 == 2],
            }

        sns.answers["PublishBatch"] = every_third_fails
        sent = [message(f"{number}".encode()) for number in range(count)]
        expected = [Outcome.ACCEPTED, Outcome.RELEASED, Outcome.REJECTED] * 4
        assert await publish(backend, topic(), *sent) == expected[:count]
        assert [entry["Message"] for entry in entries(sns.calls[-1].request)] == [f"{n}" for n in range(count)]

    @pytest.mark.parametrize("answer", [b"", b"[]", {"Successful": [{"Id": "9"}]}, {"Failed": [{"Id": "0"}]}])
    async def test_what_is_no_answer(self, sns: ScriptedSns, backend: SnsBackend, answer: object) -> None:
        sns.answers["PublishBatch"] = answer
        with pytest.raises(Unavailable):
            await publish(backend, topic(), message())

    async def test_an_entry_left_out_has_not_succeeded(self, sns: ScriptedSns, backend: SnsBackend) -> None:
        sns.answers["PublishBatch"] = {"Successful": [{"Id": "1"}]}
        assert await publish(backend, topic(), message(), message()) == [Outcome.RELEASED, Outcome.ACCEPTED]

    async def test_what_came_from_the_topic_does_not_go_there_again(
        self, sns: ScriptedSns, backend: SnsBackend
    ) -> None:
        came, other = Origin("sns", ARN), Origin("sns", f"{ARN}-other")
        batch = [message(b"1", origin=came), message(b"2"), message(b"3", origin=other)]
        assert await publish(backend, topic(), *batch) == [Outcome.ACCEPTED] * 3
        assert [entry["Message"] for entry in entries(sns.calls[-1].request)] == ["2", "3"]
        calls = len(sns.calls)
        assert await publish(backend, topic(ARN), batch[0]) == [Outcome.ACCEPTED]
        assert len(sns.calls) == calls


class TestTopics:
    async def test_a_topic_is_looked_up_once(self, sns: ScriptedSns, backend: SnsBackend) -> None:
        await asyncio.gather(*(publish(backend, topic(), message()) for _ in range(3)))
        assert sns.actions().count("GetTopicAttributes") == 1
        assert {call.request["TopicArn"] for call in sns.calls if call.service == "sns"} == {ARN}

    async def test_an_arn_says_where(self, sns: ScriptedSns, backend: SnsBackend) -> None:
        await publish(backend, topic("arn:aws:sns:us-east-2:111122223333:other"), message())
        (call,) = sns.calls
        assert (call.action, call.region) == ("PublishBatch", "us-east-2")

    @pytest.mark.parametrize("fifo", [False, True])
    async def test_a_missing_topic_is_created(self, sns: ScriptedSns, backend: SnsBackend, fifo: bool) -> None:
        name = "events.fifo" if fifo else "events"
        sns.answers["GetTopicAttributes"] = NotFound("no such topic")
        sns.answers["CreateTopic"] = {"TopicArn": f"{ARN}.fifo" if fifo else ARN}
        await backend.ensure(topic(name), QueueSpec())
        request = sns.calls[-1].request
        assert (request["Name"], request["Tags.member.1.Key"]) == (name, "mqlift:name")
        assert ("Attributes.entry.1.key" in request) is fifo

    @pytest.mark.parametrize(("name", "provision"), [("events", "never"), (ARN, "auto")])
    async def test_or_told_by_name(self, sns: ScriptedSns, name: str, provision: Provision) -> None:
        sns.answers["GetTopicAttributes"] = NotFound("no such topic")
        with pytest.raises(NotFound, match=r"events .*create it"):
            await open_backend(sns, prefix="", provision=provision).ensure(topic(name), QueueSpec())

    async def test_a_topic_that_is_gone_is_made_again(self, sns: ScriptedSns, backend: SnsBackend) -> None:
        await publish(backend, topic(), message())
        sns.answers["PublishBatch"] = NotFound("NotFound: Topic does not exist")
        with pytest.raises(Unavailable, match="looked up again"):
            await publish(backend, topic(), message())
        sns.answers |= {
            "PublishBatch": accepted,
            "GetTopicAttributes": NotFound("no such topic"),
            "CreateTopic": {"TopicArn": ARN},
        }
        assert await publish(backend, topic(), message()) == [Outcome.ACCEPTED]
        assert sns.actions()[-2:] == ["CreateTopic", "PublishBatch"]

    @on_clock
    async def test_one_that_fans_out_is_made_again_when_other_gateways_know(self) -> None:
        """What they still publish to it by its queues would reach nobody."""
        sns = ScriptedSns()
        backend = open_backend(sns, prefix="", provision="auto")
        fans_out = replace(topic(), fanout=())
        await publish(backend, fans_out, message())
        sns.answers["PublishBatch"] = NotFound("NotFound: Topic does not exist")
        with pytest.raises(Unavailable, match="looked up again"):
            await publish(backend, fans_out, message())
        sns.answers |= {
            "PublishBatch": accepted,
            "GetTopicAttributes": NotFound("no such topic"),
            "CreateTopic": {"TopicArn": ARN},
        }
        began = asyncio.get_running_loop().time()
        for _ in range(3):
            with pytest.raises(Unavailable, match="when the other gateways know"):
                await publish(backend, fans_out, message())
            await asyncio.sleep(TOLD / 4)
        assert "CreateTopic" not in sns.actions()
        await asyncio.sleep(began + TOLD - asyncio.get_running_loop().time())
        assert await publish(backend, fans_out, message()) == [Outcome.ACCEPTED]
        assert sns.actions()[-2:] == ["CreateTopic", "PublishBatch"]

    async def test_a_missing_key_is_not_a_missing_topic(self, sns: ScriptedSns, backend: SnsBackend) -> None:
        sns.answers["PublishBatch"] = NotFound("KMSNotFound: no such key")
        with pytest.raises(NotFound, match="KMSNotFound"):
            await publish(backend, topic(), message())

    async def test_a_denied_topic_is_not_asked_for_again_at_once(self, sns: ScriptedSns, backend: SnsBackend) -> None:
        sns.answers["GetTopicAttributes"] = AccessDenied("no")
        for _ in range(3):
            with pytest.raises(AccessDenied):
                await publish(backend, topic(), message())
        assert sns.actions().count("GetTopicAttributes") == 1

    async def test_nothing_lives_in_a_topic(self, backend: SnsBackend) -> None:
        with pytest.raises(Invalid, match="a queue cannot live in a sns topic"):
            backend.home("orders", QueueSpec())
        assert not backend.limits.receive_entries
        for call in (
            backend.receive(topic(), 1, 0.0, 1.0),
            backend.settle(topic(), ["r"], Outcome.ACCEPTED),
            backend.extend(topic(), ["r"], 1.0),
            backend.remove(topic()),
        ):
            with pytest.raises(BackendError, match="sns topic events: "):
                await call
        await backend.aclose()


class TestLargePayloads:
    @pytest.fixture
    def large(self, sns: ScriptedSns) -> SnsBackend:
        settings = Settings(large_payloads=LargePayloadSettings(bucket="payloads", threshold=1000))
        return open_backend(sns, prefix="", provision="auto", settings=settings)

    async def test_a_large_body_goes_to_s3(self, sns: ScriptedSns, large: SnsBackend) -> None:
        entry = await published(sns, large, topic(), message(b"\x00" * 3000))
        ((bucket, key),) = sns.objects.kept
        assert orjson.loads(entry["Message"]) == [
            "software.amazon.payloadoffloading.PayloadS3Pointer",
            {"s3BucketName": bucket, "s3Key": key},
        ]
        assert attributes(entry)["ExtendedPayloadSize"] == ("Number", "4000")
        assert attributes(entry)["mqlift.encoding"] == ("String", "base64")
        assert large.encode(topic(), message(b"x" * 3000)).size == 3000

    async def test_what_s3_does_not_take_is_not_published(self, sns: ScriptedSns, large: SnsBackend) -> None:
        sns.objects.failures = [Unavailable("S3 is down")]
        batch = [large.encode(topic(), message(body)) for body in (b"x" * 3000, b"small", b"y" * 3000)]
        results = await large.send(topic(), batch)
        assert [result.outcome for result in results] == [Outcome.RELEASED, Outcome.ACCEPTED, Outcome.ACCEPTED]
        assert len(entries(sns.calls[-1].request)) == 2
        # The same entry, again: what is stored is not stored twice.
        assert list(await large.send(topic(), [batch[0], batch[2]])) == [ACCEPTED] * 2
        assert sns.objects.puts == 3
        assert len(sns.objects.kept) == 2

    def test_there_is_an_end(self, large: SnsBackend) -> None:
        with pytest.raises(TooLarge, match=f"{MAX_PAYLOAD}"):
            large.encode(topic(), message(bytes(MAX_PAYLOAD + 1)))
        with pytest.raises(TooLarge, match="without its body"):
            large.encode(topic(), message(headers={"h": "x" * 300_000}))
