"""The topic trie with many subscriptions: `python -m tests.bench.trie`; one line of JSON to standard output."""

from __future__ import annotations

import argparse
import random
import sys
import time
import tracemalloc
from collections.abc import Sequence
from typing import Final

import orjson

from gateway.core.trie import TopicTrie

SUBSCRIPTIONS: Final = 100_000
KEYS: Final = 2_000
SITES: Final = 200
SEED: Final = 1

MEASURES: Final = ("telemetry", "status", "alarm", "config")


def device(number: int) -> tuple[str, int]:
    """Where a device is, and its number there."""
    return f"site-{number % SITES}", number // SITES


def patterns(count: int) -> list[str]:
    """What a fleet and its watchers subscribe to: most name one topic, some a device or a kind, few everything."""
    rng = random.Random(SEED)
    made = ["sensors.#", "#", "*.*.*.alarm", "sensors.*.*.status"]
    number = 0
    while len(made) < count:
        site, own = device(number)
        kind = rng.random()
        if kind < 0.8:
            made.append(f"sensors.{site}.device-{own}.{MEASURES[number % 4]}")
        elif kind < 0.95:
            made.append(f"sensors.{site}.device-{own}.#")
        else:
            made.append(f"sensors.*.device-{own}.{MEASURES[number % 4]}")
        number += 1
    return made


def keys(count: int, subscriptions: int) -> list[str]:
    """What devices publish to."""
    rng = random.Random(SEED)
    found = []
    for _ in range(count):
        site, own = device(rng.randrange(subscriptions))
        found.append(f"sensors.{site}.device-{own}.{rng.choice(MEASURES)}")
    return found


def fastest(trie: TopicTrie[int], topics: Sequence[str], seconds: float) -> list[float]:
    """Microseconds of a match for each topic, in its fastest round."""
    best = [float("inf")] * len(topics)
    end = time.perf_counter() + seconds
    while True:
        for number, topic in enumerate(topics):
            start = time.perf_counter_ns()
            trie.match(topic)
            best[number] = min(best[number], (time.perf_counter_ns() - start) / 1000)
        if time.perf_counter() >= end:
            return best


def bytes_each(made: Sequence[str]) -> float:
    """Memory of the trie for each subscription; the patterns themselves are their owner's."""
    tracemalloc.start()
    try:
        trie: TopicTrie[int] = TopicTrie(shield_dollar=True)
        for number, pattern in enumerate(made):
            trie.insert(pattern, number)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return kept / len(made)


def measure(subscriptions: int, seconds: float) -> dict[str, float]:
    """`median` and `p99` in µs of a match, over keys; `insert_us`, and bytes and values found besides."""
    made = patterns(subscriptions)
    trie: TopicTrie[int] = TopicTrie(shield_dollar=True)
    start = time.perf_counter()
    for number, pattern in enumerate(made):
        trie.insert(pattern, number)
    inserted = time.perf_counter() - start
    topics = keys(KEYS, subscriptions)
    times = sorted(fastest(trie, topics, seconds))
    return {
        "subscriptions": len(made),
        "match_us": times[len(times) // 2],
        "match_p99_us": times[len(times) * 99 // 100],
        "found": sum(len(trie.match(topic)) for topic in topics) / len(topics),
        "insert_us": inserted / len(made) * 1e6,
        "bytes_each": bytes_each(made),
    }


class Options(argparse.Namespace):
    duration: float
    subscriptions: int


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the topic trie.")
    parser.add_argument("--duration", type=float, default=5.0, help="seconds of matching")
    parser.add_argument("--subscriptions", type=int, default=SUBSCRIPTIONS)
    options = parser.parse_args(namespace=Options())
    sys.stdout.write(orjson.dumps(measure(options.subscriptions, options.duration)).decode() + "\n")


if __name__ == "__main__":
    main()
