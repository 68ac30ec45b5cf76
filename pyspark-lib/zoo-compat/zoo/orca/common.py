"""OrcaContext, and starting and stopping of Orca's contexts."""

from sparkray_zoo_compat.orca import init_orca_context, stop_orca_context
from sparkray_zoo_compat.orca_context import OrcaContext

__all__ = ["OrcaContext", "init_orca_context", "stop_orca_context"]
