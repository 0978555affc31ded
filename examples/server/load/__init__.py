"""``./dev load``: what the server does with our state, and with the plain one, by threads.

- `__main__.py`: the runs, one after the other, and Ctrl-C
- `inside.py`: the application alone, called from threads without HTTP
- `outside.py`: the whole server in a process of its own, driven by wrk over loopback
- `clients.lua`: what wrk asks for
- `tables.py`: the results as tables
"""
