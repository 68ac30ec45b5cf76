"""`bigdl`, as far as programs use it to start Ray on Spark; on top of sparkray."""
