"""Amazon Kinesis Data Streams, written to."""
