"""A contention profile as text: its table, and the words that its page uses as well."""

from collections.abc import Iterator
from traceback import StackSummary
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .contention import ContendedObject, ContentionHolder, ContentionProfile, ContentionSite


def printable(text: str) -> str:
    """A text that names something, without line breaks and control characters."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def duration(seconds: float) -> str:
    """A duration with three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale * 0.9995 or unit == "µs":
            value = seconds / scale
            return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f} {unit}"
    raise AssertionError


def place(stack: StackSummary) -> str:
    """The innermost call of a stack, in a line."""
    if not stack:
        return "somewhere"
    last = stack[-1]
    return printable(f"{last.filename}:{last.lineno} in {last.name}")


def held_at(what: "ContendedObject") -> list[tuple[str, str, float]]:
    """Who held it at each place, the place, and the part of the waiting time that fell to it."""
    places: dict[str, list[ContentionHolder]] = {}
    for holder in what.holders:
        places.setdefault(place(holder.stack), []).append(holder)
    found = []
    for where, holders in places.items():
        names = list(dict.fromkeys(holder.thread for holder in holders))
        who = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        found.append((who, where, sum(holder.seconds for holder in holders)))
    found.sort(key=lambda each: -each[2])
    return found


def table(profile: "ContentionProfile", limit: int) -> Iterator[str]:
    """The lines of a profile's table: at most so many objects of either kind."""
    objects = profile.objects
    waited = sum(each.seconds for each in objects if each.contended)
    yield (
        f"Contention profile of {duration(profile.seconds)}: "
        f"threads waited {duration(waited)} for each other"
    )
    for contended, title in ((True, "Held by other threads"), (False, "Waited for")):
        part = [each for each in objects if each.contended is contended]
        if part:
            yield ""
            yield f"{'waited':>9} {'waits':>8} {'longest':>9} {'retries':>9}  {title}"
        for each in part[:limit]:
            kind = "" if each.name.startswith(each.type) else f" ({printable(each.type)})"
            yield _row(each, f"{printable(each.name)}{kind}")
            for site in each.sites[:4]:
                yield _row(site, f"  {printable(site.operation)} at {place(site.stack)}")
            for who, where, seconds in held_at(each)[:2]:
                percent = f"{100 * seconds / each.seconds:.0f} %" if each.seconds else ""
                yield f"{'':>40}held by {printable(who)}, {percent}, at {where}"
        if len(part) > limit:
            yield f"{'':>38}and {len(part) - limit} more"


def _row(what: "ContendedObject | ContentionSite", text: str) -> str:
    if what.waits:
        numbers = f"{duration(what.seconds):>9} {what.waits:>8} {duration(what.longest):>9}"
    else:
        numbers = f"{'':>28}"
    return f"{numbers} {what.retries or '':>9}  {text}"
