"""The rate limit of one client: the generic cell rate algorithm (GCRA), one number for a client.

The number is the moment at which the client has used up nothing. Each request moves it on by one
interval; it may be ahead of the clock by `burst` intervals.
"""


def next_turn(turn: int, now: int, rate: int, burst: int) -> tuple[int, int]:
    """Give the client's next number, and how many nanoseconds it must wait (0: it may go on)."""
    interval = 1_000_000_000 // rate
    turn = max(turn, now) + interval
    return turn, max(0, turn - now - burst * interval)
