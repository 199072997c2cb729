"""Selects the cases of a test that the default run includes."""

import pytest


def sample(cases, few=1):
    """The first `few` cases unmarked; the others run only in `make test-all`."""
    kept = list(cases)
    more = [each if isinstance(each, tuple) else (each,) for each in kept[few:]]
    return kept[:few] + [pytest.param(*each, marks=pytest.mark.exhaustive) for each in more]
