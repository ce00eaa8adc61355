"""Amazon Data Firehose, written to."""
