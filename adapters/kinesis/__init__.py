"""Amazon Kinesis Data Streams, written to and read."""
