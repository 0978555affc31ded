"""What this package uses of `threading`, as that was when the package was imported.

A program may put our `Mutex` in place of ``threading.Lock``, and so on.  What our classes rest on
must not be made of our classes then: a `Mutex` whose waiters sleep at a `Mutex` never gets to sleep.
Modules that are imported late (`_spawn`, `_tasks`) find the originals here, too.
"""

from _thread import LockType as LockType
from _thread import allocate_lock as allocate_lock
from _thread import get_ident as get_ident
from threading import Condition as Condition
from threading import RLock as RLock
from threading import Thread as Thread
from threading import local as local
from threading import main_thread as main_thread
