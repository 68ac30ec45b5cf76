"""What holds for all tests."""

import signal

# A runner that was started in the background of a shell ignores SIGINT and SIGQUIT, one under nohup SIGHUP. So would
# every driver that the tests start and interrupt, because an ignored signal stays ignored in children.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _ignored in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_ignored, signal.SIG_DFL)
