"""Starting and stopping of Orca's contexts."""

from sparkray_zoo_compat.orca import init_orca_context, stop_orca_context

__all__ = ["init_orca_context", "stop_orca_context"]
