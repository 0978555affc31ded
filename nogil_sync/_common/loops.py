"""How a task waits without blocking its event loop, for both backends.

A task that has to wait makes a `Call`, which it gives as the callback to whatever will serve it:
the backend's ``AsyncWaiter``, which stands in the same line as waiting threads, or a run of `runs`.
Then it awaits the call, which is a future as asyncio defines them. The thread that serves it, in
whatever loop or in none, puts the call into the *inbox* of its loop and has the loop empty that.

**Many at a time.** An inbox asks its loop for one `_Delivery` at a time: a call that comes while
one is under way needs no other. The delivery first clears `asked` and then empties the deque. The
thread that serves first appends to the deque and then looks at `asked`. Each step on the deque
holds the deque's own lock (or the GIL). So if the delivery found the deque empty before the append,
the thread finds `asked` false and asks again; else the delivery finds the call. Nothing is lost.

A task that serves another one of its own loop needs no inbox: it has the loop call `resume`. If the
loop drops that before it ran (the loop is closed), or an interrupt ends it, the call is put into
the inbox.

**At once.** The delivery resumes the tasks itself. A future of asyncio would have the loop resume
its task in the next round, after another look for input, which takes longer than all of this. After
some tasks it lets the loop go on, in case that threads serve them as fast as they wait again.

**Closed loops.** A loop that is closed cannot be asked (``RuntimeError``), and drops the deliveries
that it has not run, which notice. In both cases what the calls were given goes to the next ones in
line.

**Interrupts.** A ``KeyboardInterrupt`` can come anywhere in the thread that serves. So asking a
loop is repeated until it is done; asking it twice does no harm. What is raised is raised then. In
the loop's own thread it can also come right before the loop runs a delivery, which is dropped then
and asks again; or in the delivery, which takes a call out of the inbox only once its task was
resumed. Between the look at a call (`over`) and the start of its task no interrupt can come.

asyncio is imported by the first task that waits, and not by this module, since it takes long.
"""

from collections import deque
from collections.abc import Callable, Generator
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import ref

from .dropped import calling, in_two_steps
from .originals import local

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from contextvars import Context

_MANY = 100  # how many tasks one delivery resumes


class Inbox:
    """The calls of one loop that were served, and whose tasks the loop has yet to resume."""

    __slots__ = ("asked", "loop", "served")

    def __init__(self, loop: "AbstractEventLoop") -> None:
        self.loop = ref(loop)
        self.asked = False  # a delivery is under way
        self.served: deque[Call] = deque()

    def ask(self) -> None:
        """Have the loop deliver, if it is not closed. An interrupt is raised when that is done."""
        later: BaseException | None = None
        while True:  # twice: an interrupt can also come where a loop jumps back
            try:
                while True:
                    try:
                        self.__ask()
                        break
                    except BaseException as another:
                        if isinstance(another, Exception):
                            raise
                        later = later or another
                break
            except BaseException as another:
                if isinstance(another, Exception):
                    raise
                later = later or another
        if later is not None:
            raise later

    def __ask(self) -> None:
        loop = self.loop()
        if loop is None:
            self.discard()
            return
        # One request to the loop, which makes this call or drops it when it closes.
        request = _Request(self)
        delivery = calling(request.deliver, request.undelivered)
        self.asked = True
        try:
            loop.call_soon_threadsafe(delivery.__next__)
        except BaseException as error:
            self.asked = False
            if isinstance(error, Exception):
                request.asks_again = False
            if not (isinstance(error, RuntimeError) and loop.is_closed()):
                raise
        if loop.is_closed():  # perhaps only now, and dropped what had been asked before
            self.discard()

    def deliver(self) -> None:
        """Resume the tasks, in the loop."""
        self.asked = False
        served = self.served
        for _ in range(_MANY):
            if not served:
                return
            served[0].resume()  # does nothing if an interrupt came after it
            served.popleft()
        if served:
            self.ask()

    def undelivered(self) -> None:
        """A delivery was dropped, as the loop is closed, or was interrupted."""
        loop = self.loop()
        if loop is None or loop.is_closed():
            self.discard()
            return
        self.asked = False
        if self.served:
            self.ask()

    def discard(self) -> None:
        """The loop is closed: give back what the calls were given."""
        self.asked = False  # as in a delivery
        while True:
            try:
                call = self.served[0]
            except IndexError:
                return
            if call.waiter is not None:
                call.waiter.cancel()
            try:
                self.served.remove(call)
            except ValueError:
                pass  # another thread was here


class _Request:
    """One request to a loop. The loop may have accepted it even if asking for it raised.

    (The thread that asks cannot end the generator that the loop got: two threads that use one
    generator at the same time crash the interpreter.)
    """

    __slots__ = ("asks_again", "inbox")

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.asks_again = True  # false if that would fail again

    def deliver(self) -> None:
        """The loop accepted it."""
        self.asks_again = True
        self.inbox.deliver()

    def undelivered(self) -> None:
        """It was dropped, or its delivery was interrupted."""
        if self.asks_again:
            self.inbox.undelivered()


class _Asyncio:
    """The functions of asyncio that are used here, which is imported when the first one is."""

    get_running_loop: "Callable[[], AbstractEventLoop]"
    _get_running_loop: "Callable[[], AbstractEventLoop | None]"
    current_task: "Callable[..., object]"

    def __getattr__(self, name: str) -> Any:
        from asyncio import _get_running_loop, current_task, get_running_loop

        self.get_running_loop = get_running_loop
        self._get_running_loop = _get_running_loop
        self.current_task = current_task
        return self.__dict__[name]


_asyncio = _Asyncio()


class _Thread(local):
    inbox: Inbox | None = None  # of the loop that this thread ran last


_thread = _Thread()


class Call:
    """One task that waits, and the future that it awaits.

    The thread that serves it calls it, with the waiter that is served. All else happens in the
    thread of its loop. In `wait_in_line` it stands for its task among `task_waits`, too.
    """

    __slots__ = (
        "__weakref__",
        "_asyncio_future_blocking",  # by which tasks know a future
        "callbacks",
        "inbox",
        "is_cancelled",
        "loop",
        "message",
        "obj",
        "operation",
        "over",
        "since",
        "task",
        "waiter",
    )
    # As those of a `TaskWait`. Only `wait_in_line` sets them.
    obj: object
    operation: str
    since: float
    task: Any

    def __init__(self) -> None:
        loop = _asyncio.get_running_loop()
        inbox = _thread.inbox
        if inbox is None or inbox.loop() is not loop:
            _thread.inbox = inbox = Inbox(loop)
        self._asyncio_future_blocking = False
        self.callbacks: list[tuple[Callable[[Call], object], Context | None]] = []
        self.inbox = inbox
        self.is_cancelled = False
        self.loop = loop
        self.message: object = None
        self.over = False
        self.waiter: Any = None

    def __call__(self, waiter: Any = None) -> None:
        loop = self.loop
        if _asyncio._get_running_loop() is loop and _asyncio.current_task(loop) is not None:
            # A task of this very loop serves another, so the loop does not sleep. (In a signal
            # handler it might, but then no task is running.)
            self.waiter = waiter
            step = in_two_steps(self.resume, self.__undelivered).__next__
            step()
            loop.call_soon(step)
            return
        inbox = self.inbox
        self.waiter = waiter
        inbox.served.append(self)
        if not inbox.asked:
            inbox.ask()

    def __undelivered(self) -> None:
        """The loop dropped `resume` before it ran, or an interrupt came: use the inbox instead."""
        self.inbox.served.append(self)
        self.inbox.ask()

    def release(self) -> None:
        """Call it: as the gate of a wait."""
        self()

    async def sleep(self, seconds: float | None) -> None:
        """Let the loop run until this is called, at most so many seconds."""
        if seconds is None:
            await self
            return
        timer = self.loop.call_later(seconds, self.resume)
        try:
            await self
        finally:
            timer.cancel()

    async def sleep_again(self) -> None:
        """After `sleep` came to its time: let the loop run until this is called."""
        self.over = False
        await self

    def resume(self) -> None:
        """Resume the task at once, from the loop itself, if it still waits."""
        self.waiter = None
        if self.over:
            return
        self.over = True
        callbacks, self.callbacks = self.callbacks, []
        callback: Callable[[Call], object] | None = None
        try:
            for callback, context in callbacks:
                if context is None:
                    callback(self)
                else:
                    context.run(callback, self)
        finally:
            # What a task raises refers to this frame up to 3.13, and the callback to the task.
            del self, callbacks
            callback = None

    # What a task asks of a future

    def __await__(self) -> Generator["Call", None, None]:
        if not self.over:
            self._asyncio_future_blocking = True
            yield self
            if not self.over:
                raise RuntimeError("an awaited wait was resumed by other means than its loop")
        if self.is_cancelled:
            self.result()

    def add_done_callback(
        self, callback: "Callable[[Call], object]", *, context: "Context | None" = None
    ) -> None:
        """Call this when it is over."""
        if self.over:
            self.loop.call_soon(callback, self, context=context)
        else:
            self.callbacks.append((callback, context))

    def remove_done_callback(self, callback: "Callable[[Call], object]") -> int:
        """Do not call this; return how often it would have been called."""
        before = len(self.callbacks)
        self.callbacks = [each for each in self.callbacks if each[0] != callback]
        return before - len(self.callbacks)

    def cancel(self, msg: object = None) -> bool:
        """End the wait with a ``CancelledError``, unless it is over."""
        if self.over:
            return False
        self.over = self.is_cancelled = True
        self.message = msg
        callbacks, self.callbacks = self.callbacks, []
        for callback, context in callbacks:  # not at once: another task is running
            self.loop.call_soon(callback, self, context=context)
        return True

    def result(self) -> None:
        """Nothing, or raise ``CancelledError``."""
        if self.is_cancelled:
            from asyncio import CancelledError

            raise CancelledError(*(() if self.message is None else (self.message,)))

    def exception(self) -> None:
        """As `result`."""
        self.result()

    def done(self) -> bool:
        """Whether the wait is over."""
        return self.over

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.is_cancelled

    def get_loop(self) -> "AbstractEventLoop":
        """The loop of the task."""
        return self.loop


class TaskWait:
    """A task that waits, for those that look (`waiting`): for the body of a ``with``."""

    __slots__ = ("__weakref__", "obj", "operation", "since", "task")

    def __init__(self, obj: object, operation: str) -> None:
        self.task: Any = _asyncio.current_task()  # None once it goes on
        self.obj = obj
        self.operation = operation
        self.since = monotonic()
        task_waits.add(ref(self, task_waits.discard))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.task = None


task_waits: "set[ref[TaskWait | Call]]" = set()


NOT_SERVED: Any = object()  # the outcome of a wait whose time was over


async def wait_in_line(
    new: Callable[..., Any], obj: object, operation: str, argument: object, seconds: float | None
) -> Any:
    """Stand in line, at most so many seconds; the waiter's outcome, or NOT_SERVED."""
    call = Call()
    waiter = new(obj, operation, argument, call)
    try:
        if waiter.served:
            return waiter.outcome
        call.obj = obj
        call.operation = operation
        call.since = monotonic()
        call.task = _asyncio.current_task()
        task_waits.add(ref(call, task_waits.discard))
        if seconds is not None:
            return await settle(waiter, call, seconds)
        await call
        return waiter.outcome
    except BaseException:
        waiter.cancel()
        raise
    finally:
        call.task = None


async def settle(waiter: Any, call: Call, seconds: float | None) -> Any:
    """Wait until the waiter is served, at most so many seconds; its outcome, or NOT_SERVED."""
    try:
        await call.sleep(seconds)
        # What it was given in the last moment is kept.
        return waiter.outcome if waiter.served or not waiter.time_out() else NOT_SERVED
    except BaseException:
        waiter.cancel()
        raise
