"""Cases of a test of which the default run takes a few."""

import pytest


def sample(cases, few=1):
    """The first `few` cases as they are; the others only in `make test-all`."""
    kept = list(cases)
    more = [each if isinstance(each, tuple) else (each,) for each in kept[few:]]
    return kept[:few] + [pytest.param(*each, marks=pytest.mark.exhaustive) for each in more]
