"""Assert that a call raises, with keywords in the message."""

import pytest


def check_raises(call, keywords, types=(TypeError, ValueError)):
    with pytest.raises(types) as error:
        call()
    message = str(error.value)
    assert all(keyword in message for keyword in keywords), message
