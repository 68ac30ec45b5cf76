"""Types around actors, which are sparkray's."""

from sparkray.actor import *  # noqa: F403
from sparkray.actor import __all__ as __all__
