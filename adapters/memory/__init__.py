"""The reference backend: SQS semantics in this process's memory, for tests, benchmarks and trials without AWS."""
