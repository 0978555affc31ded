"""The pure-Python backend: correct anywhere, and the typed specification of both backends.

The docstrings of these classes are those of the native ones too.
"""

import sys as _sys

from .._common import awaited as _awaited
from .._common.channel_closed import *
from .._common.mapping import *
from .._common.performance import *
from .._common.untraced import hide_sections as _hide_sections
from .async_waiter import *
from .atomics import *
from .barrier import *
from .cache import *
from .cached import *
from .channel import *
from .cond import *
from .counters import *
from .event import *
from .metrics import *
from .mutex import *
from .once import *
from .pin import *
from .pool import *
from .rlock import *
from .rwmutex import *
from .scope import *
from .select import *
from .semaphore import *
from .syncmap import *
from .waitgroup import *

for _name, _module in list(_sys.modules.items()):
    if _name.startswith(f"{__name__}."):
        _hide_sections(vars(_module))

_awaited.install(globals())
