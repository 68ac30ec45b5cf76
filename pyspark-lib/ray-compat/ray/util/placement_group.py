"""Resources that are reserved together, by sparkray."""

from sparkray.util.placement_group import *  # noqa: F403
from sparkray.util.placement_group import __all__ as __all__
