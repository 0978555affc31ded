"""What the child of a fork keeps of its parent, untouched."""

# Dicts and the like. Without the GIL each has a lock, which a thread that is gone may have had, or
# have been about to get. Freeing one could wait for that lock.
left_at_fork: list[object] = []
