"""Benchmarks: an SQS endpoint that answers instantly, load that is not the bottleneck, and comparisons beside them."""
