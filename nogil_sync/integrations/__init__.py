"""Other libraries on top of nogil_sync; each module needs the library that it is named for.

prometheus
    the metrics of prometheus_client, updated by many threads without a lock
"""
