"""What holds for all tests."""

import signal

# A runner that was started in the background of a shell ignores SIGINT, and so would every driver that the tests
# start and interrupt. With a handler here, children begin with the default.
signal.signal(signal.SIGINT, signal.default_int_handler)
