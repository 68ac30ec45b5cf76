"""An actor that many tests use."""

from __future__ import annotations

import os
import time

import sparkray


@sparkray.remote
class Counter:
    """Counts."""

    def __init__(self, start=0):
        self.value = start

    def add(self, amount=1):
        self.value += amount
        return self.value

    def pid(self):
        return os.getpid()

    def fail(self, kind, text):
        raise kind(text)

    def die(self):
        os.kill(os.getpid(), 9)

    def sleep(self, seconds):
        time.sleep(seconds)

    @sparkray.method(num_returns=2)
    def pair(self):
        return self.value, "second"
