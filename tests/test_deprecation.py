"""The helper that retires public names."""

import pytest

from gpuprop._core.deprecation import deprecated


@deprecated(instead="new(x)", since="0.2", removal="0.4")
def old(x, scale=1):
    """Twice `x`."""
    return 2 * x * scale


def test_it_works_on_and_warns_where_it_is_called():
    with pytest.warns(DeprecationWarning, match=r"old.*0\.2.*0\.4.*use new\(x\)") as caught:
        assert old(3, scale=2) == 12
    assert caught[0].filename == __file__
    assert old.__doc__.startswith("Twice") and "Deprecated since 0.2: use new(x)." in old.__doc__
