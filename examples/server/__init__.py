"""A web server whose threads share sessions, metrics, buffers, a configuration and a rate limit.

It is there to see the library at work under real clients, and to compare it: all that threads share
is behind one interface, `state.State`, once with nogil_sync and once with `threading`.

    ./dev serve      starts it, with a live status page
    ./dev load       drives it, ours beside the plain one, and says where the time goes

The files, in the order in which a request meets them:

- `__main__.py`: the options of ``./dev serve``
- `cheroot_server.py`, `gunicorn_server.py`: the two HTTP servers, and how they stop
- `arrival.py`, `deadlines.py`: slow clients occupy no thread, or not for long
- `application.py`: the WSGI application, its routes; `requests.py`: what it reads of a request
- `state.py`: the interface of what threads share; `ours.py` and `plain.py`, its implementations;
  `configuration.py`, `limits.py`, `metrics.py`: the parts that both use
- `status.py`, `status.html`: the status page; `sampling.py`: a profile of the server by functions
- `load/`: ``./dev load``
"""
