"""Fixtures for all tests."""

import pytest


@pytest.fixture
def one_thread():
    """One thread of torch: on their number depends the rounding."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
