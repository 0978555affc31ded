"""Tests from outside: CPython's own, from the interpreter's `test` package, on our classes."""
