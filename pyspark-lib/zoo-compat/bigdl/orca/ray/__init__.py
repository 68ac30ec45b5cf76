"""RayContext, OrcaRayContext and RayOnSparkContext."""

from sparkray_zoo_compat.ray_context import OrcaRayContext, RayContext

# The same under the name that BigDL 2.1 gave it.
RayOnSparkContext = RayContext

__all__ = ["OrcaRayContext", "RayContext", "RayOnSparkContext"]
