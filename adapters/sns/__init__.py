"""SNS: topics that messages are published to, and taken from."""
