"""What is in streams and archives of the emulator, read with boto3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import boto3  # type: ignore[import-untyped]

from adapters.kinesis.aggregation import deaggregate

Client: TypeAlias = Any  # boto3 makes its clients at run time
Record: TypeAlias = dict[str, Any]

BUCKET = "mqlift-archive"
ROLE = "arn:aws:iam::000000000000:role/firehose"


def aws_client(service: str, endpoint_url: str) -> Client:
    """A boto3 client of one service of the emulator."""
    return boto3.client(
        service,
        endpoint_url=endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def bodies_by_key(kinesis: Client, stream: str) -> dict[str, list[str]]:
    """What a stream has of each partition key, in its order, taken out of KPL's format where it is in it."""
    found: dict[str, list[str]] = {}
    for record in stream_records(kinesis, stream):
        for each in deaggregate(record["PartitionKey"], record["Data"]):
            found.setdefault(each.partition_key, []).append(each.data.decode())
    return found


def stream_records(kinesis: Client, stream: str) -> list[Record]:
    """Every record of a stream, shard by shard, each in its order; `ShardId` is added."""
    return list(_records(kinesis, stream))


def _records(kinesis: Client, stream: str) -> Iterator[Record]:
    for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
        iterator = kinesis.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while iterator:
            answer = kinesis.get_records(ShardIterator=iterator)
            if not answer["Records"]:
                break
            yield from (record | {"ShardId": shard["ShardId"]} for record in answer["Records"])
            iterator = answer.get("NextShardIterator")


def make_delivery_stream(firehose: Client, s3: Client, name: str) -> None:
    """A delivery stream whose records go to S3, below its own name."""
    s3.create_bucket(Bucket=BUCKET)
    destination = {"RoleARN": ROLE, "BucketARN": f"arn:aws:s3:::{BUCKET}", "Prefix": f"{name}/"}
    firehose.create_delivery_stream(DeliveryStreamName=name, ExtendedS3DestinationConfiguration=destination)


def delivered_objects(s3: Client, name: str) -> list[bytes]:
    """The objects that a delivery stream has written. The emulator writes one for each record."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{name}/")
    keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
    return [s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys]
