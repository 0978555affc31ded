"""A cache of users that loads a user from the database on a miss, once, and stays small.

Use ``Cache.load_or_compute(key, fn, *args)`` for a cache that threads share: one thread loads,
those that want the same key wait for it, all others go on. A hit takes no lock. The cache keeps
at most as many users as it was made for, however many there are: those that are asked for often.
``pop(key, None)`` forgets a user, even one that is just being loaded. If all users fit into memory,
`SyncMap` does the same and forgets nobody.

The naive version looks into a dict, and loads what is missing: it grows for ever, and all threads
that miss at the same time ask the database for the same user, just when it is busiest.
functools.lru_cache stays small, but asks as often. A threading.Lock around it all asks once, but
then one slow load holds up everybody.
"""

import functools
import random
import sqlite3
import threading
import time
from collections.abc import Callable

from measure import Over, compare, options, rate_of, run, seconds_for

from nogil_sync import Cache, Mutex, ShardedCounter, pin


class Database:
    def __init__(self, users: int) -> None:
        self.connection = sqlite3.connect(":memory:", check_same_thread=False)
        self.connection.execute("create table users (id integer primary key, name text)")
        rows = [(n, f"user {n}") for n in range(users)]
        self.connection.executemany("insert into users values (?, ?)", rows)
        self.mutex = Mutex()  # sqlite3's connections are not for two threads at once
        self.queries = ShardedCounter()

    def load(self, user: int) -> str:
        self.queries.add()
        time.sleep(0.002)  # the way to the database and back
        with self.mutex:
            query = self.connection.execute("select name from users where id = ?", (user,))
            name: str = query.fetchone()[0]
            return name


def demonstrate(database: Database, users: int, threads: int, seconds: float) -> None:
    plain: dict[int, str] = {}
    guarded: dict[int, str] = {}
    lock = threading.Lock()
    cache: Cache[int, str] = pin(Cache(users))  # pin: needed on 3.13t, see counting.py
    remembered = functools.lru_cache(users)(database.load)

    def naive(user: int) -> str:
        if user not in plain:
            plain[user] = database.load(user)
        return plain[user]

    def locked(user: int) -> str:
        with lock:
            if user not in guarded:
                guarded[user] = database.load(user)
            return guarded[user]

    def cached(user: int) -> str:
        return cache.load_or_compute(user, database.load, user)

    rows = []
    ways: dict[str, Callable[[int], str]] = {
        "dict, naive": naive,
        "functools.lru_cache": remembered,
        "dict and threading.Lock": locked,
        "Cache.load_or_compute": cached,
    }
    for name, get in ways.items():

        def fill(get: Callable[[int], str] = get) -> None:
            for user in random.Random().sample(range(users), users):
                assert get(user) == f"user {user}"

        def hit(over: Over, get: Callable[[int], str] = get) -> int:
            hits = 0
            while not over():
                for user in range(users):
                    get(user)
                hits += users
            return hits

        database.queries.reset()
        took = seconds_for(fill, threads)
        remark = f"{database.queries.value()} queries in {took * 1000:.0f} ms to load {users}"
        rows.append((name, rate_of(hit, threads, seconds).per_second, remark))
    compare("hits a second", *rows)
    assert sorted(cache) == list(range(users))

    # Ten times as many users as the cache holds, of whom a few come all the time.
    database.queries.reset()
    popular, before = range(users // 2), cache.stats()
    for stranger in range(users, 10 * users):
        for user in (*popular, stranger):
            assert cached(user) == f"user {user}"
    hits, misses = (now - then for now, then in zip(cache.stats()[:2], before[:2], strict=True))
    assert misses == database.queries.value()
    print(f"{10 * users} users came, {len(cache)} are in the cache: {hits} hits, {misses} queries")


def main() -> None:
    chosen = options(__doc__, threads=16, users=20, seconds=0.2)
    database = Database(10 * chosen.users)
    try:
        demonstrate(database, chosen.users, chosen.threads, chosen.seconds)
    finally:
        database.connection.close()


if __name__ == "__main__":
    run(main)
