"""One thread of torch: enough here, and rounding does not depend on the machine."""

import pytest


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """For every test."""
