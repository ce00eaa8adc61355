"""Streams that are read as queues: offsets, shards, readers, and groups of consumers that share them."""
