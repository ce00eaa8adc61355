"""Calls of the state store, counted."""

from __future__ import annotations

import pytest

from adapters.memory.store import MemoryStore
from gateway.core.observedstore import ObservedStore
from gateway.core.store import Conflict, StateStore, StoreError
from tests.rig.scripted import new_metrics


async def test_each_call_is_counted_and_passed_on() -> None:
    metrics = new_metrics()
    store: StateStore = ObservedStore(MemoryStore(), metrics)
    record = await store.put("kind", "key", b"value", expected=0, expires_at=7.0)
    assert await store.get("kind", "key") == record
    assert list(await store.scan("kind")) == [record]
    assert list(await store.expired("kind", 8.0)) == [record]
    with pytest.raises(Conflict):
        await store.put("kind", "key", b"other", expected=0)
    assert await store.delete("kind", "key") is True
    with pytest.raises(StoreError):
        await store.put("kind", "key", b"x" * (store.value_bytes + 1))
    counted = {
        (sample.labels["action"], sample.labels["outcome"]): sample.value
        for metric in metrics.state_calls.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }
    done = dict.fromkeys((("get", "done"), ("scan", "done"), ("expired", "done"), ("delete", "done")), 1)
    assert counted == done | {("put", "done"): 1, ("put", "conflict"): 1, ("put", "failed"): 1}
    await store.aclose()
