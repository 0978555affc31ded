"""The native backend: ``_core`` is the extension module, built from this folder."""
