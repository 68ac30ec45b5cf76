"""What a task, actor or driver can ask about itself, by sparkray."""

from sparkray.runtime_context import *  # noqa: F403
from sparkray.runtime_context import __all__ as __all__
