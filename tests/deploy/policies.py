"""What an IAM policy allows, as IAM evaluates the few things that our policies say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from tests.rig.faults import Call

Policy: TypeAlias = dict[str, Any]

ACCOUNT = "000000000000"
"""Of everything in the emulator."""
# Actions whose permission has another name (Service Authorization Reference).
_BATCHES = {
    "SendMessageBatch": "SendMessage",
    "DeleteMessageBatch": "DeleteMessage",
    "ChangeMessageVisibilityBatch": "ChangeMessageVisibility",
    "PublishBatch": "Publish",
}
_S3 = {
    "PUT": "s3:PutObject",
    "POST": "s3:PutObject",  # a multipart upload
    "GET": "s3:GetObject",
    "HEAD": "s3:GetObject",
    "DELETE": "s3:DeleteObject",
}
_SCOPE = re.compile(r"Credential=[^/]+/\d{8}/([^/]+)/([^/]+)/aws4_request")


def allows(policy: Policy, action: str, resource: str) -> bool:
    """Whether a statement has the action and a pattern for the resource. There is no Deny in our policies."""
    return any(
        action in statement["Action"] and any(fnmatchcase(resource, pattern) for pattern in statement["Resource"])
        for statement in policy["Statement"]
    )


def needs(call: Call) -> Iterator[tuple[str, str]]:
    """The permission that a request needs, and the ARN that it needs it on; nothing for one that needs none."""
    headers = {name.lower(): value for name, value in call.headers.items()}
    scope = _SCOPE.search(headers["authorization"])
    assert scope is not None, call.headers
    region, service = scope.groups()
    if service == "sts":
        return  # "No permissions are required to perform this operation" (STS API, GetCallerIdentity)
    if service == "s3":
        bucket_and_key, _, query = call.path.lstrip("/").partition("?")
        aborts = call.method == "DELETE" and "uploadId" in query
        yield "s3:AbortMultipartUpload" if aborts else _S3[call.method], f"arn:aws:s3:::{bucket_and_key}"
        return
    if service == "sns":
        yield from _sns_needs(call, region)
        return
    action = _BATCHES.get(call.action, call.action)
    yield f"{service}:{action}", f"arn:aws:{service}:{region}:{ACCOUNT}:{_name(service, call)}"
    if call.document.get("tags"):
        yield "sqs:TagQueue", f"arn:aws:sqs:{region}:{ACCOUNT}:{call.queue}"


def _sns_needs(call: Call, region: str) -> Iterator[tuple[str, str]]:
    """SNS speaks the query protocol: its requests are forms."""
    form = {name: values[0] for name, values in parse_qs(call.body.decode()).items()}
    resource = form.get("TopicArn") or f"arn:aws:sns:{region}:{ACCOUNT}:{form['Name']}"
    yield f"sns:{_BATCHES.get(form['Action'], form['Action'])}", resource
    if "Tags.member.1.Key" in form:
        yield "sns:TagResource", resource


def _name(service: str, call: Call) -> str:
    if service == "kinesis":
        return f"stream/{call.document['StreamName']}"
    if service == "dynamodb":
        index = call.document.get("IndexName")
        return f"table/{call.document['TableName']}" + (f"/index/{index}" if index else "")
    if service == "firehose":
        return f"deliverystream/{call.document['DeliveryStreamName']}"
    return call.queue
