"""Settings shared by the tests."""

import os

from hypothesis import settings

# The same examples in every run of CI; new ones, in search of trouble, at a desk.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if "CI" in os.environ else "desk")
