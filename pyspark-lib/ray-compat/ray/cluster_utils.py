"""Several nodes on one machine, by sparkray."""

from sparkray.cluster_utils import *  # noqa: F403
from sparkray.cluster_utils import __all__ as __all__
