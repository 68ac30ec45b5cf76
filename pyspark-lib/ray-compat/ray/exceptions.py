"""Ray's exceptions, which are sparkray's."""

from sparkray.exceptions import *  # noqa: F403
from sparkray.exceptions import __all__ as __all__
