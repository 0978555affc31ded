"""The examples of the documentation, on the backend that is active."""

import doctest
import inspect

import pytest

import nogil_sync

pytestmark = pytest.mark.thread_unsafe(reason="doctest replaces sys.stdout")


def documented():
    yield "nogil_sync", nogil_sync.__doc__
    for name in nogil_sync.__all__:
        thing = getattr(nogil_sync, name)
        if not inspect.isclass(thing) and not callable(thing):
            continue
        yield name, thing.__doc__
        if inspect.isclass(thing) and not issubclass(thing, BaseException):
            for method in dir(thing):
                if not method.startswith("_"):
                    yield f"{name}.{method}", getattr(thing, method).__doc__


DOCS = dict(documented())


@pytest.mark.parametrize("name", DOCS)
def test_docstring_examples_run(name):
    assert DOCS[name], f"{name} has no documentation"
    test = doctest.DocTestParser().get_doctest(DOCS[name], {}, name, None, 0)
    report = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert not report, "".join(report)


@pytest.mark.parametrize("name", [n for n in DOCS if "." not in n and n != "PerformanceWarning"])
def test_every_class_and_function_has_an_example(name):
    assert ">>>" in DOCS[name]
