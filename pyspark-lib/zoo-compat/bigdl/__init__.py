"""`bigdl`, as far as programs use it to start Ray on Spark; on top of sparkray."""

# Refuses the originals, and says what is not here.
import sparkray_zoo_compat  # noqa: F401
