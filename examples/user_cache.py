"""A cache of users that loads a user from the database on a miss, once.

Use ``SyncMap.load_or_compute(key, fn, *args)`` for a cache that threads share: one thread loads,
those that want the same key wait for it, all others go on. Lookups take no lock. ``pop(key, None)``
forgets a user, even one that is just being loaded.

The naive version looks into a dict, and loads what is missing: all threads that miss at the same
time ask the database for the same user, just when it is busiest. A threading.Lock around it all
asks once, but then one slow load holds up everybody.
"""

import random
import sqlite3
import threading
import time
from collections.abc import Callable

from measure import Over, compare, options, rate_of, run, seconds_for

from nogil_sync import Mutex, ShardedCounter, SyncMap, pin


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
    cache: SyncMap[int, str] = pin(SyncMap())  # pin: needed on 3.13t, see counting.py

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
        "dict and threading.Lock": locked,
        "SyncMap.load_or_compute": cached,
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


def main() -> None:
    chosen = options(__doc__, threads=16, users=20, seconds=0.2)
    database = Database(chosen.users)
    try:
        demonstrate(database, chosen.users, chosen.threads, chosen.seconds)
    finally:
        database.connection.close()


if __name__ == "__main__":
    run(main)
