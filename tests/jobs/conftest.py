"""Shared by the tests of the entry points."""

from collections.abc import Iterator

import pytest

from tests.jobs.head import started


@pytest.fixture(scope="session")
def head() -> Iterator[str]:
    """The address of the Jobs API of a Ray head."""
    with started() as address:
        yield address
