"""Many cases in one test, where a test for each would take longer than what it checks."""

from contextlib import contextmanager

import pytest


@contextmanager
def together(where):
    """Yield ``case(*names)``, the block of one case; the errors of all are raised at the end."""
    failed = []

    @contextmanager
    def case(*names):
        try:
            yield
        except (Exception, pytest.fail.Exception) as error:
            failed.append((", ".join(map(str, names)), error))

    yield case
    if failed:
        names, errors = zip(*failed, strict=True)
        raise BaseExceptionGroup(f"{where}: {'; '.join(names)}", errors)
