"""What workers print reaches the driver with Ray's prefix."""

from __future__ import annotations

import re

from process.helpers import run_driver
from sparkray._private import log_output

PROGRAM = """
import logging, os, sys, time
import sparkray

@sparkray.remote
def speak(text):
    print(text)
    print("to stderr", file=sys.stderr)
    return os.getpid()

@sparkray.remote
class Speaker:
    def say(self, text):
        print(text)
        os.write(1, b"in two ")
        os.write(1, b"parts\\n")
        return os.getpid()

sparkray.init(num_cpus=2 {options})
speaker = Speaker.remote()
pids = sparkray.get([speak.remote("hello\\nworld"), speaker.say.remote("hi ä")])
print("PIDS", *pids, flush=True)
"""


def test_lines_have_the_name_and_pid_of_the_worker():
    done = run_driver(PROGRAM.replace("{options}", ""))
    assert done.returncode == 0, done.stderr
    pids = re.search(r"^PIDS (\d+) (\d+)$", done.stdout, re.MULTILINE)
    assert pids is not None, done.stdout
    task, actor = pids.groups()
    lines = done.stdout.splitlines()
    assert f"(speak pid={task}) hello" in lines
    assert f"(speak pid={task}) world" in lines
    assert f"(Speaker pid={actor}) hi ä" in lines
    assert f"(Speaker pid={actor}) in two parts" in lines
    assert f"(speak pid={task}) to stderr" in done.stderr.splitlines()
    assert "\033[" not in done.stdout


def test_an_actor_that_describes_itself_does_so_before_its_output():
    done = run_driver(
        """
        import os
        import sparkray

        class Shard:
            def __init__(self, number):
                self.number = number

            def __repr__(self):
                return f"Shard(number={self.number})"

            def say(self, text):
                print(text)
                return os.getpid()

        sparkray.init(num_cpus=2)
        plain = sparkray.remote(Shard).remote(7)
        threads = sparkray.remote(Shard).options(max_concurrency=2).remote(8)
        print("PIDS", *sparkray.get([plain.say.remote("plain"), threads.say.remote("threads")]), flush=True)
        """
    )
    assert done.returncode == 0, done.stderr
    pids = re.search(r"^PIDS (\d+) (\d+)$", done.stdout, re.MULTILINE)
    assert pids is not None, done.stdout
    lines = done.stdout.splitlines()
    assert f"(Shard(number=7) pid={pids[1]}) plain" in lines
    assert f"(Shard(number=8) pid={pids[2]}) threads" in lines


def test_output_can_be_kept_away():
    done = run_driver(PROGRAM.replace("{options}", ", log_to_driver=False"))
    assert done.returncode == 0, done.stderr
    assert "hello" not in done.stdout
    assert "to stderr" not in done.stderr


def test_a_burst_of_lines_arrives_whole_and_in_order():
    done = run_driver(
        """
        import sparkray

        @sparkray.remote
        def count():
            for n in range(5000):
                print("line", n)

        with sparkray.init(num_cpus=1):
            sparkray.get(count.remote())
        """
    )
    assert done.returncode == 0, done.stderr
    numbers = [int(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines() if "line" in line]
    assert numbers == list(range(5000))


def test_what_can_never_be_scheduled_is_reported():
    done = run_driver(
        """
        import sparkray

        @sparkray.remote(num_cpus=64)
        def large():
            return 1

        with sparkray.init(num_cpus=1):
            try:
                sparkray.get(large.remote(), timeout=3)
            except TimeoutError:
                print("timed out")
        """
    )
    assert done.returncode == 0, done.stderr
    assert "timed out" in done.stdout
    assert "CPU: 64 asked for, no node has more than 1" in done.stdout + done.stderr


def test_the_prefix_names_other_nodes():
    assert log_output.prefix("f", 12, "1.2.3.4", "1.2.3.4") == "(f pid=12)"
    assert log_output.prefix("f", 12, "5.6.7.8", "1.2.3.4") == "(f pid=12, ip=5.6.7.8)"
    assert log_output.prefix("", 12, "", "1.2.3.4") == "(pid=12)"


class _Terminal:
    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_colours_only_on_a_terminal(monkeypatch, capsys):
    terminal = _Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    log_output.print_lines([("f", 1, "", "text", False)])
    assert terminal.text == "\033[36m(f pid=1)\033[0m text\n"
