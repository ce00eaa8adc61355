"""Which shards a consumer reads: those where it begins, and their children once they are read to the end. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from gateway.core.streams.offset import Start
from gateway.core.streams.port import END, FIRST, Position, Shard, Whence


class Course:
    """The way of one consumer, or of a group of them, through the shards of a stream: parents before children."""

    def __init__(self, start: Start) -> None:
        self._default = start.default
        self._positions: dict[str, Position] = dict(start.positions)
        self._begun: set[str] = set()
        self._done = {shard for shard, position in start.positions.items() if position is END}
        self._listed: Mapping[str, Shard] = {}

    @property
    def done(self) -> frozenset[str]:
        """Shards that are read to the end, or need not be read."""
        return frozenset(self._done)

    @property
    def childless(self) -> bool:
        """Whether the children of a shard that was read to its end are not listed yet."""
        return bool(
            (self._done & self._begun) - {parent for shard in self._listed.values() for parent in shard.parents}
        )

    def listed(self, shards: Sequence[Shard]) -> None:
        """These are the shards of which anything is kept."""
        self._listed = {shard.id: shard for shard in shards}
        for named in self._positions:
            self._done |= self._ancestors(named)  # whoever has begun a child had read its parents
        if self._default.whence is Whence.NEXT:
            # All that is closed was before; what comes later is begun at its beginning.
            self._done |= {shard.id for shard in shards if not shard.open}
            for shard in shards:
                if shard.open:
                    self._positions.setdefault(shard.id, self._default)
            self._default = FIRST
        self._done &= self._listed.keys()
        self._begun &= self._listed.keys()

    def begin(self) -> list[tuple[str, Position]]:
        """The shards that may be begun now, each told once."""
        due = [shard for shard in self._listed.values() if shard.id not in self._begun and self._may_begin(shard)]
        self._begun.update(shard.id for shard in due)
        return [(shard.id, self._positions.get(shard.id, self._default)) for shard in due]

    def finish(self, shard: str) -> None:
        """A shard was read to its end: its children may be begun."""
        self._done.add(shard)

    def superseded(self, shard: str, named: AbstractSet[str]) -> bool:
        """Whether one of these shards is a child of this one, which says already that it was read to the end."""
        return any(shard in self._parents(each) for each in named)

    def _may_begin(self, shard: Shard) -> bool:
        return shard.id not in self._done and all(
            parent in self._done for parent in shard.parents if parent in self._listed
        )

    def _ancestors(self, shard: str) -> set[str]:
        """Those that are still listed."""
        found: set[str] = set()
        waiting = list(self._parents(shard))
        while waiting:
            parent = waiting.pop()
            if parent not in found:
                found.add(parent)
                waiting.extend(self._parents(parent))
        return found

    def _parents(self, shard: str) -> Iterable[str]:
        known = self._listed.get(shard)
        return () if known is None else (parent for parent in known.parents if parent in self._listed)
