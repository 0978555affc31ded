"""Eviction policies as small models: they decide which keys stay, and store no values.

Each model has `request(key) -> bool`: True for a hit; a miss admits the key and evicts another.
`cache_policies.py` runs them over traces. The models follow the papers that they name; where a
paper keeps approximate counts, the model keeps exact ones.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict, defaultdict, deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Policy(Protocol):
    def request(self, key: int) -> bool: ...


class LRU:
    """Evicts the key that was not used for the longest time."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.keys: OrderedDict[int, None] = OrderedDict()

    def request(self, key: int) -> bool:
        keys = self.keys
        if key in keys:
            keys.move_to_end(key)
            return True
        keys[key] = None
        if len(keys) > self.size:
            keys.popitem(last=False)
        return False


class LFU:
    """Evicts the key with the fewest hits since it was admitted; among equals the oldest."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.counts: dict[int, int] = {}
        self.by_count: defaultdict[int, OrderedDict[int, None]] = defaultdict(OrderedDict)
        self.lowest = 1

    def request(self, key: int) -> bool:
        count = self.counts.get(key)
        if count is not None:
            of_count = self.by_count[count]
            del of_count[key]
            if not of_count and self.lowest == count:
                self.lowest = count + 1
            self.counts[key] = count + 1
            self.by_count[count + 1][key] = None
            return True
        if len(self.counts) == self.size:
            victim, _ = self.by_count[self.lowest].popitem(last=False)
            del self.counts[victim]
        self.counts[key] = 1
        self.by_count[1][key] = None
        self.lowest = 1
        return False


class Clock:
    """Second chance: a FIFO queue whose hand gives an entry that was hit another round."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used: dict[int, bool] = {}
        self.queue: deque[int] = deque()

    def request(self, key: int) -> bool:
        used, queue = self.used, self.queue
        if key in used:
            used[key] = True
            return True
        if len(used) == self.size:
            while used[victim := queue.popleft()]:
                used[victim] = False
                queue.append(victim)
            del used[victim]
        used[key] = False
        queue.append(key)
        return False


class Sieve:
    """SIEVE (Zhang et al., NSDI 2024): CLOCK whose hand leaves what it passes in place."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used: dict[int, bool] = {}
        self.newer: dict[int, int | None] = {}
        self.older: dict[int, int | None] = {}
        self.newest: int | None = None
        self.oldest: int | None = None
        self.hand: int | None = None

    def request(self, key: int) -> bool:
        if key in self.used:
            self.used[key] = True
            return True
        if len(self.used) == self.size:
            self._evict()
        self.used[key] = False
        self.older[key], self.newer[key] = self.newest, None
        if self.newest is None:
            self.oldest = key
        else:
            self.newer[self.newest] = key
        self.newest = key
        return False

    def _evict(self) -> None:
        victim = self.oldest if self.hand is None else self.hand
        assert victim is not None
        while self.used[victim]:
            self.used[victim] = False
            following = self.newer[victim]
            victim = self.oldest if following is None else following
            assert victim is not None
        newer, older = self.newer.pop(victim), self.older.pop(victim)
        self.hand = newer
        if newer is None:
            self.newest = older
        else:
            self.older[newer] = older
        if older is None:
            self.oldest = newer
        else:
            self.newer[older] = newer
        del self.used[victim]


class TwoQ:
    """2Q (Johnson and Shasha, VLDB 1994), with the paper's sizes: 25 % in, 50 % remembered."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.in_size, self.out_size = max(1, size // 4), max(1, size // 2)
        self.new: OrderedDict[int, None] = OrderedDict()
        self.out: OrderedDict[int, None] = OrderedDict()
        self.main: OrderedDict[int, None] = OrderedDict()

    def request(self, key: int) -> bool:
        if key in self.main:
            self.main.move_to_end(key)
            return True
        if key in self.new:
            return True
        known = key in self.out
        if len(self.new) + len(self.main) >= self.size:
            if len(self.new) > self.in_size or not self.main:
                victim, _ = self.new.popitem(last=False)
                self.out[victim] = None
                if len(self.out) > self.out_size:
                    self.out.popitem(last=False)
            else:
                self.main.popitem(last=False)
        if known:
            self.out.pop(key, None)
            self.main[key] = None
        else:
            self.new[key] = None
        return False


class ARC:
    """ARC (Megiddo and Modha, FAST 2003)."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.target = 0.0
        self.once: OrderedDict[int, None] = OrderedDict()
        self.often: OrderedDict[int, None] = OrderedDict()
        self.was_once: OrderedDict[int, None] = OrderedDict()
        self.was_often: OrderedDict[int, None] = OrderedDict()

    def request(self, key: int) -> bool:
        if key in self.once:
            del self.once[key]
            self.often[key] = None
            return True
        if key in self.often:
            self.often.move_to_end(key)
            return True
        if key in self.was_once:
            gain = max(1.0, len(self.was_often) / len(self.was_once))
            self.target = min(self.size, self.target + gain)
            self._replace(in_was_often=False)
            del self.was_once[key]
            self.often[key] = None
        elif key in self.was_often:
            gain = max(1.0, len(self.was_once) / len(self.was_often))
            self.target = max(0.0, self.target - gain)
            self._replace(in_was_often=True)
            del self.was_often[key]
            self.often[key] = None
        else:
            self._admit(key)
        return False

    def _admit(self, key: int) -> None:
        size = self.size
        known_once = len(self.once) + len(self.was_once)
        known = known_once + len(self.often) + len(self.was_often)
        if known_once >= size:
            if len(self.once) < size:
                self.was_once.popitem(last=False)
                self._replace(in_was_often=False)
            else:
                self.once.popitem(last=False)
        elif known >= size:
            if known >= 2 * size:
                self.was_often.popitem(last=False)
            self._replace(in_was_often=False)
        self.once[key] = None

    def _replace(self, *, in_was_often: bool) -> None:
        once = len(self.once)
        if once + len(self.often) < self.size:
            return
        if once and (once > self.target or (in_was_often and once == self.target)):
            victim, _ = self.once.popitem(last=False)
            self.was_once[victim] = None
        else:
            victim, _ = self.often.popitem(last=False)
            self.was_often[victim] = None


class S3FIFO:
    """S3-FIFO (Yang et al., SOSP 2023): a small FIFO, a main FIFO, and a queue of ghosts."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.small_size = max(1, size // 10)
        self.uses: dict[int, int] = {}
        self.small: deque[int] = deque()
        self.main: deque[int] = deque()
        self.ghosts: OrderedDict[int, None] = OrderedDict()

    def request(self, key: int) -> bool:
        uses = self.uses
        count = uses.get(key)
        if count is not None:
            if count < 3:
                uses[key] = count + 1
            return True
        while len(uses) >= self.size:
            if len(self.small) >= self.small_size or not self.main:
                self._evict_small()
            else:
                self._evict_main()
        uses[key] = 0
        if key in self.ghosts:
            del self.ghosts[key]
            self.main.append(key)
        else:
            self.small.append(key)
        return False

    def _evict_small(self) -> None:
        while self.small:
            key = self.small.popleft()
            if self.uses[key] > 1:
                self.uses[key] = 0
                self.main.append(key)
                continue
            del self.uses[key]
            self.ghosts[key] = None
            if len(self.ghosts) > self.size - self.small_size:
                self.ghosts.popitem(last=False)
            return

    def _evict_main(self) -> None:
        while count := self.uses[key := self.main.popleft()]:
            self.uses[key] = count - 1
            self.main.append(key)
        del self.uses[key]


class Climber:
    """Moves a share to where the hit ratio is better, as Caffeine does with its window.

    After each sample the share moves one step: on in the same direction if the ratio rose, back if
    it fell. Steps shrink while the ratio is steady, and are long again after it changed.
    """

    LONG, SHRINK, CHANGED = 1 / 16, 0.98, 0.05

    def __init__(self, share: float, low: float, high: float) -> None:
        self.share, self.low, self.high = share, low, high
        self.step = self.LONG
        self.last = 0.0

    def sample(self, ratio: float) -> None:
        change, self.last = ratio - self.last, ratio
        sign = 1 if (self.step > 0) == (change >= 0) else -1
        long = abs(change) >= self.CHANGED
        self.step = sign * (self.LONG if long else self.SHRINK * abs(self.step))
        self.share = min(self.high, max(self.low, self.share + self.step))


class WTinyLFU:
    """W-TinyLFU (Einziger, Friedman and Manes, 2017): an LRU window before an LRU in two segments.

    `adaptive`: the window's share is moved by the hit ratio, as Caffeine does.
    """

    ADAPTIVE = False

    def __init__(self, size: int) -> None:
        self.size = size
        self.window: OrderedDict[int, None] = OrderedDict()
        self.probation: OrderedDict[int, None] = OrderedDict()
        self.protected: OrderedDict[int, None] = OrderedDict()
        self.counts: Counter[int] = Counter()
        self.counted = 0
        self.climber = Climber(0.01, 0.01, 0.8)
        self.requests = self.hits = 0
        self._divide()

    def _divide(self) -> None:
        self.window_size = max(1, round(self.size * self.climber.share))
        self.main_size = self.size - self.window_size
        self.protected_size = self.main_size * 4 // 5

    def request(self, key: int) -> bool:
        self._count(key)
        hit = self._request(key)
        if self.ADAPTIVE:
            self.requests += 1
            self.hits += hit
            if self.requests == 10 * self.size:
                self.climber.sample(self.hits / self.requests)
                self.requests = self.hits = 0
                self._divide()
        return hit

    def _request(self, key: int) -> bool:
        if key in self.window:
            self.window.move_to_end(key)
            return True
        if key in self.protected:
            self.protected.move_to_end(key)
            return True
        if key in self.probation:
            del self.probation[key]
            self.protected[key] = None
            while len(self.protected) > self.protected_size:
                moved, _ = self.protected.popitem(last=False)
                self.probation[moved] = None
            return True
        self.window[key] = None
        while len(self.window) > self.window_size:
            candidate, _ = self.window.popitem(last=False)
            self.probation[candidate] = None
        while len(self.window) + len(self.probation) + len(self.protected) > self.size:
            self._evict()
        return False

    def _evict(self) -> None:
        """The newest key of the main part against its oldest."""
        if not self.probation:
            (self.protected or self.window).popitem(last=False)
            return
        candidate, victim = next(reversed(self.probation)), next(iter(self.probation))
        counts = self.counts
        del self.probation[victim if counts[candidate] > counts[victim] else candidate]

    def _count(self, key: int) -> None:
        """Frequencies up to 15, halved after each ten requests for each place."""
        counts = self.counts
        if counts[key] < 15:
            counts[key] += 1
        self.counted += 1
        if self.counted >= 10 * self.size:
            self.counted //= 2
            self.counts = Counter({k: count // 2 for k, count in counts.items() if count > 1})


class AdaptiveWTinyLFU(WTinyLFU):
    __doc__ = WTinyLFU.__doc__
    ADAPTIVE = True


class Ours:
    """A model of `Cache`: S3-FIFO's three queues, with duels for a place in the main one.

    A key that was evicted not long ago is *back*. At the end of the small queue it may enter the
    main one, as may a key with two hits, if there is room; and any key, if before it as many had no
    hit as there are keys. Else a key has as many duels as DUELS says, each with the oldest key of
    the main queue: it replaces the first that has no count. Each other's count is halved, and it
    goes round.

    The small queue's share of the places moves: a key that comes back when it has only just been
    evicted says that its queue should be longer.
    """

    AT_FIRST, LOW, HIGH, STEP = 10, 20, 5, 64  # the share, as parts of the places
    JUST = 50  # a key was just evicted if after it, from its queue, for so many keys one was
    GHOSTS = 2  # for each entry
    PATIENCE = 64  # so many looks at keys, and the next one is evicted whatever its count
    DUELS = ((0, 4, 8, 8), (1, 8, 8, 8))

    def __init__(self, size: int) -> None:
        self.size = size
        self.small_size = max(1, size // self.AT_FIRST)
        self.uses: dict[int, int] = {}
        self.back: set[int] = set()  # those of the small queue that are back
        self.small: deque[int] = deque()
        self.main: deque[int] = deque()
        # To the number of the eviction, and to its number among those from the same queue.
        self.ghosts: OrderedDict[int, tuple[int, bool, int]] = OrderedDict()
        self.evictions = 0
        self.evicted = [0, 0]  # from the small queue, and from the main one
        self.idle = 0  # keys in a row that left the small queue without a hit

    def request(self, key: int) -> bool:
        uses = self.uses
        count = uses.get(key)
        if count is not None:
            if count < 3:
                uses[key] = count + 1
            return True
        looks = 0
        while len(uses) >= self.size:
            looks += 1
            if len(self.small) >= self.small_size or not self.main:
                self._leave_small(now=looks > self.PATIENCE)
            else:
                self._sweep(now=looks > self.PATIENCE)
        if key in self.ghosts:
            _, from_main, turn = self.ghosts.pop(key)
            self.back.add(key)
            if self.evicted[from_main] - turn <= len(uses) // self.JUST + 1:
                self._adapt(from_main=from_main)
        uses[key] = 0
        self.small.append(key)
        return False

    def _adapt(self, *, from_main: bool) -> None:
        step = max(1, self.size // self.STEP)
        share = self.small_size + (-step if from_main else step)
        share = min(share, self.size - self.size // self.HIGH)
        self.small_size = max(1, share, self.size // self.LOW)

    def _leave_small(self, *, now: bool) -> None:
        uses, main = self.uses, self.main
        key = self.small.popleft()
        count, back = uses[key], key in self.back
        if len(main) < self.size - self.small_size:
            self.idle = 0 if back or count else self.idle + 1
            if back or count >= 2 or (self.idle > len(uses) and not now):
                self._enter_main(key)
                return
        for _ in range(0 if now else self.DUELS[back][count]):
            if not main:
                break
            victim = main.popleft()
            if not uses[victim]:
                self._evict(victim, from_main=True)
                self._enter_main(key)
                return
            uses[victim] //= 2
            main.append(victim)
        if count >= 2 and not now:
            uses[key] = count - 1
            self.small.append(key)
        else:
            self._evict(key, from_main=False)

    def _enter_main(self, key: int) -> None:
        self.back.discard(key)
        self.uses[key] = 1
        self.main.append(key)

    def _sweep(self, *, now: bool) -> None:
        victim = self.main.popleft()
        if self.uses[victim] and not now:
            self.uses[victim] //= 2
            self.main.append(victim)
        else:
            self._evict(victim, from_main=True)

    def _evict(self, key: int, *, from_main: bool) -> None:
        del self.uses[key]
        self.back.discard(key)
        self.ghosts[key] = self.evictions, from_main, self.evicted[from_main]
        self.evictions += 1
        self.evicted[from_main] += 1
        oldest = self.evictions - self.GHOSTS * len(self.uses)
        while self.ghosts and next(iter(self.ghosts.values()))[0] < oldest:
            self.ghosts.popitem(last=False)


POLICIES: dict[str, Callable[[int], Policy]] = {
    "LRU": LRU,
    "LFU": LFU,
    "CLOCK": Clock,
    "SIEVE": Sieve,
    "2Q": TwoQ,
    "ARC": ARC,
    "S3-FIFO": S3FIFO,
    "W-TinyLFU": WTinyLFU,
    "W-TinyLFU, adaptive": AdaptiveWTinyLFU,
    "its model": Ours,
}


def hits(policy: Policy, trace: Sequence[int]) -> int:
    return sum(map(policy.request, trace))


def most_hits(size: int, trace: Sequence[int]) -> int:
    """Hits of Bélády's optimum, which knows the future: evict what is needed last.

    It may refuse a key that is needed later than all that it holds.
    """
    never = len(trace)
    following, seen = [never] * len(trace), dict[int, int]()
    for at in range(len(trace) - 1, -1, -1):
        following[at] = seen.get(trace[at], never)
        seen[trace[at]] = at
    held: dict[int, int] = {}
    heap: list[tuple[int, int]] = []
    found = 0
    for at, key in enumerate(trace):
        found += key in held
        held[key] = following[at]
        heapq.heappush(heap, (-following[at], key))
        if len(held) > size:
            while held.get(heap[0][1]) != -heap[0][0]:
                heapq.heappop(heap)
            del held[heapq.heappop(heap)[1]]
    return found
