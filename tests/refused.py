"""A call that has to be refused, and what its error has to say."""

import pytest


def refused(call, words, kinds=(TypeError, ValueError)):
    with pytest.raises(kinds) as error:
        call()
    assert [word for word in words if word not in str(error.value)] == [], error.value
