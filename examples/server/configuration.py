"""The configuration: one value that nobody changes. A change makes a new one."""

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Config:
    """What can be changed while the server runs."""

    greeting: str = "hello"
    #: Requests a second that one client may make, on average.
    rate: int = 1_000_000
    #: Requests that a client may make at once after a pause.
    burst: int = 1_000_000

    def changed(self, **values: object) -> "Config":
        """Give a copy with these values, or raise a ValueError that says what is wrong."""
        types = {field.name: type(getattr(self, field.name)) for field in fields(self)}
        for name, value in values.items():
            if name not in types:
                raise ValueError(f"no such setting: {name!r} (there are: {', '.join(types)})")
            if type(value) is not types[name]:
                raise ValueError(f"{name} must be of type {types[name].__name__}")
            if type(value) is int and not 1 <= value <= 10**9:
                raise ValueError(f"{name} must be from 1 to 1,000,000,000")
            if type(value) is str and len(value) > 200:
                raise ValueError(f"{name} may have 200 characters")
        return replace(self, **values)  # type: ignore[arg-type]


#: The sizes that a server keeps to for all its life.
SESSIONS, SESSION_SECONDS = 100_000, 1800.0
CLIENTS = 100_000
BUFFER = 65_536
MAX_BODY = BUFFER
#: Reports that may be made at the same time, and how long a request waits for its turn, in seconds.
REPORTS, REPORT_PATIENCE = 2, 5.0
