"""The one place that chooses between the native and the threading backend."""

import os
import sysconfig
from typing import TYPE_CHECKING

from ._common.cancelled import scopes as _scopes
from ._common.mapping import *
from ._common.recording import recording as _recording

_VARIABLE = "NOGIL_SYNC_BACKEND"


def _choose() -> str:
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    wanted = os.environ.get(_VARIABLE, "")
    if wanted not in ("", "native", "threading"):
        raise ImportError(f"{_VARIABLE} must be 'native' or 'threading', not {wanted!r}")
    if wanted == "native" and not free_threaded:
        raise ImportError(
            f"{_VARIABLE}=native needs a free-threaded interpreter; "
            "this one has the GIL, where the threading backend is the only one"
        )
    return wanted or ("native" if free_threaded else "threading")


backend: str = _choose()

if TYPE_CHECKING or backend == "threading":
    # Type checkers always see the pure classes: they are the typed specification.
    from ._common.guard import defer as defer  # noqa: PLC0414  (for _common; not public)
    from ._common.guard import guard_of as guard_of  # noqa: PLC0414  (for _common; not public)
    from ._common.no_native import native_sleepers as native_sleepers  # noqa: PLC0414
    from ._common.no_native import own_wait as own_wait  # noqa: PLC0414
    from ._common.no_native import register_signal as register_signal  # noqa: PLC0414
    from ._common.no_native import set_deadlock_check as set_deadlock_check  # noqa: PLC0414
    from ._common.no_native import unregister_signal as unregister_signal  # noqa: PLC0414
    from ._threading import *
else:
    try:
        from ._native._core import *
    except ModuleNotFoundError as missing:
        if missing.name not in ("nogil_sync._native", "nogil_sync._native._core"):
            raise
        from pathlib import Path

        if (Path(__file__).parent / "_native" / "meson.build").exists():
            raise ImportError(
                "this nogil_sync is the source tree, which has no C extension, and Python found it "
                "before an installed one. Run Python in another folder or with -P; in a checkout "
                "'./dev python' has the package installed."
            ) from missing
        raise ImportError(
            "nogil_sync was installed without its C extension, which a free-threaded "
            "interpreter needs to scale. Build it with this interpreter and a C compiler: 'pip "
            "install --no-cache-dir --no-binary nogil_sync --force-reinstall nogil_sync'. "
            f"To run on the slow pure-Python backend instead, set {_VARIABLE}=threading."
        ) from missing
    from ._native import _core

    # For nogil_sync.diagnostics: what only the extension has.
    own_wait = _core._own_wait
    put = _core._put
    register_signal = _core._register_signal
    set_deadlock_check = _core._set_deadlock_check
    native_sleepers = _core._sleepers
    unregister_signal = _core._unregister_signal
    _recording.switch = _core._record_waits
    _recording.take = _core._recorded_waits
    _recording.stacks = _core._stacks
    _recording.joins = _core._joins

# For modules of _common that the backends import.
_scopes.current = current_scope
_scopes.enter = enter_scope

if not TYPE_CHECKING:  # they read literals only, and follow the star imports
    from . import __all__ as _public

    __all__ = [name for name in _public if name in globals()]

from ._common.environment import start_as_asked as _start_as_asked

_start_as_asked()
