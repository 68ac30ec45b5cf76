"""Where tasks and actors run, by sparkray."""

from sparkray.util.scheduling_strategies import *  # noqa: F403
from sparkray.util.scheduling_strategies import __all__ as __all__
