"""What is used of aiobotocore's client of S3, with the names that botocore gives to parameters and fields."""

from __future__ import annotations

from typing import NotRequired, Protocol, TypedDict


class Body(Protocol):
    async def read(self, amt: int) -> bytes: ...

    def close(self) -> None: ...


class HeadObjectAnswer(TypedDict):
    ContentLength: int
    ETag: str


class GetObjectAnswer(TypedDict):
    ContentLength: int
    Body: Body


class UploadPartAnswer(TypedDict):
    ETag: str
    ChecksumCRC32: NotRequired[str]


class CreatedUpload(TypedDict):
    UploadId: str


class CompletedPart(TypedDict):
    PartNumber: int
    ETag: str
    ChecksumCRC32: NotRequired[str]


class S3Client(Protocol):
    """What is used of aiobotocore's client."""

    async def put_object(self, *, Bucket: str, Key: str, Body: bytes) -> object: ...

    async def head_object(self, *, Bucket: str, Key: str) -> HeadObjectAnswer: ...

    async def get_object(self, *, Bucket: str, Key: str, Range: str, IfMatch: str) -> GetObjectAnswer: ...

    async def delete_object(self, *, Bucket: str, Key: str) -> object: ...

    async def create_multipart_upload(
        self,
        *,
        Bucket: str,
        Key: str,
        ChecksumAlgorithm: str,
    ) -> CreatedUpload: ...

    async def upload_part(
        self,
        *,
        Bucket: str,
        Key: str,
        UploadId: str,
        PartNumber: int,
        Body: bytes,
        ChecksumAlgorithm: str,
    ) -> UploadPartAnswer: ...

    async def complete_multipart_upload(
        self,
        *,
        Bucket: str,
        Key: str,
        UploadId: str,
        MultipartUpload: dict[str, list[CompletedPart]],
    ) -> object: ...

    async def abort_multipart_upload(self, *, Bucket: str, Key: str, UploadId: str) -> object: ...
