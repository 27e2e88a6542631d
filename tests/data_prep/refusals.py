"""What every refusal must be: one InputError with one line."""

from collections.abc import Callable

import pytest

from data_prep.common.errors import InputError


def refusal(action: Callable[[], object]) -> str:
    """The message of the InputError that ``action`` raises: one line."""
    with pytest.raises(InputError) as caught:
        action()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message
