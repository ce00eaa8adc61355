import json
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlencode

import pytest
from botocore.serialize import create_serializer
from botocore.session import get_session
from hypothesis import given
from hypothesis import strategies as st

from adapters.aws import query
from adapters.aws.shapes import from_form

TEXT = st.text(st.characters(codec="utf-8"))


@given(TEXT)
def test_quoting_is_urllibs(text: str) -> None:
    assert query.quote(text.encode()).decode() == quote(text, safe="")


def test_every_ascii_character_is_quoted_as_urllib_does() -> None:
    text = "".join(map(chr, range(128)))
    assert query.quote(text.encode()).decode() == quote(text, safe="")


@given(st.dictionaries(st.from_regex(r"[A-Za-z]+(\.[A-Za-z0-9]+)*", fullmatch=True), TEXT, max_size=8))
def test_a_form_is_what_others_read(fields: Mapping[str, str]) -> None:
    assert dict(parse_qsl(query.form(fields).decode(), keep_blank_values=True)) == fields


def test_maps_are_numbered_entries() -> None:
    assert query.map_fields("Attributes", {"a": "1", "b": "2"}) == {
        "Attributes.entry.1.key": "a",
        "Attributes.entry.1.value": "1",
        "Attributes.entry.2.key": "b",
        "Attributes.entry.2.value": "2",
    }


BATCH = b"""<PublishBatchResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishBatchResult>
  <Failed><member><Id>1</Id><Code>InternalError</Code><Message>a &lt;b&gt; c</Message><SenderFault>false</SenderFault>
  </member></Failed><Successful><member><MessageId>m</MessageId><Id>0</Id></member></Successful>
</PublishBatchResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></PublishBatchResponse>"""


def test_lists_of_structures() -> None:
    assert json.loads(query.to_json(BATCH)) == {
        "Failed": [{"Id": "1", "Code": "InternalError", "Message": "a <b> c", "SenderFault": "false"}],
        "Successful": [{"MessageId": "m", "Id": "0"}],
    }


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"<AResponse><AResult><Failed/><Text>t</Text></AResult></AResponse>", {"Failed": "", "Text": "t"}),
        (
            (
                b"<AResponse><AResult><Attributes><entry><key>a</key><value>1</value></entry>"
                b"<entry><key>b</key><value></value></entry></Attributes></AResult></AResponse>"
            ),
            {"Attributes": {"a": "1", "b": ""}},
        ),
        (b"<AResponse><ResponseMetadata/></AResponse>", {}),
        (b"<AResponse><AResult/></AResponse>", {}),
    ],
)
def test_results(answer: bytes, expected: object) -> None:
    assert json.loads(query.to_json(answer)) == expected


def test_faults() -> None:
    answer = (
        b'<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type>'
        b"<Code>NotFound</Code><Message>Topic does not exist</Message></Error><RequestId>r</RequestId></ErrorResponse>"
    )
    assert query.fault(answer) == ("NotFound", "Topic does not exist")
    assert query.fault(b"<html></html>") == ("", "")


@pytest.mark.parametrize("answer", [BATCH[:end] for end in range(0, len(BATCH) - 1, 13)])
def test_a_cut_answer_is_no_answer(answer: bytes) -> None:
    with pytest.raises(ValueError, match="not XML"):
        query.to_json(answer)
    with pytest.raises(ValueError, match="not XML"):
        query.fault(answer)


REQUESTS = {
    "PublishBatch": {
        "TopicArn": "arn:aws:sns:eu-west-1:111122223333:events",
        "PublishBatchRequestEntries": [
            {
                "Id": f"{number}",
                "Message": 'größer & "=" %',
                "Subject": "s",
                "MessageAttributes": {
                    "text": {"DataType": "String", "StringValue": "v"},
                    "bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
                },
            }
            for number in range(11)
        ],
    },
    "CreateTopic": {"Name": "t", "Attributes": {"FifoTopic": "true"}, "Tags": [{"Key": "a", "Value": ""}]},
    "Subscribe": {"TopicArn": "t", "Protocol": "sqs", "ReturnSubscriptionArn": True},
}


@pytest.mark.parametrize("action", REQUESTS)
def test_botocores_form_gives_its_parameters_again(action: str) -> None:
    model = get_session().get_service_model("sns").operation_model(action)
    fields = create_serializer("query").serialize_to_request(REQUESTS[action], model)["body"]
    body = urlencode({name: value for name, value in fields.items() if name not in ("Action", "Version")})
    assert from_form(model.input_shape, body.encode()) == REQUESTS[action]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"Unknown=1", "no parameter Unknown"),
        (b"Tags.entry.1=1", "not a series"),
        (b"Tags.member.x.Key=1", "invalid literal"),
        (b"Attributes.entry.1.key=a", "not key and value"),
        (b"Name.First=1", "a value has fields"),
        (b"Name=1&Name.First=1", "has fields"),
        (b"garbage", "bad query field"),
    ],
)
def test_forms_of_another_shape(body: bytes, problem: str) -> None:
    shape = get_session().get_service_model("sns").operation_model("CreateTopic").input_shape
    with pytest.raises(ValueError, match=problem):
        from_form(shape, body)
