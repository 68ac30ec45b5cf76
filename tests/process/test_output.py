"""What workers print reaches the driver with Ray's prefix."""

from __future__ import annotations

import re

import pytest

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
# Its process is another one than the function's: STATUS.md says what is not exact where a process changes its name.
sparkray.get(speaker.__ray_ready__.remote())
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
                sparkray.get(large.remote(), timeout=5)
            except TimeoutError:
                print("timed out")
        """
    )
    assert done.returncode == 0, done.stderr
    assert "timed out" in done.stdout
    assert "task large (1 waiting) cannot be scheduled" in done.stderr
    assert "no node has more than 1 CPU" in done.stderr


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


def test_long_lines_and_odd_letters_arrive_whole_with_one_prefix():
    done = run_driver(
        r"""
        import os, sys, threading
        import sparkray

        @sparkray.remote
        def long():
            print("L" * 300_000)
            print("M" * 1_000_000)
            sys.stdout.write("N" * 3_000_000 + "\n")
            print("after")

        @sparkray.remote
        def odd():
            os.write(1, b"invalid \xff\xfe utf-8\n")
            os.write(1, b"nul \x00 byte\n")
            sys.stdout.write("\r10%\r20%\r30%\n")
            print("\u20ac" * 100_000)
            sys.stdout.write("no end")
            sys.stdout.flush()

        @sparkray.remote
        def threads():
            def speak(letter):
                for _ in range(200):
                    os.write(1, (letter * 1000 + "\n").encode())
            started = [threading.Thread(target=speak, args=(letter,)) for letter in "XYZ"]
            [thread.start() for thread in started]
            [thread.join() for thread in started]

        sparkray.init(num_cpus=3)
        sparkray.get([long.remote(), odd.remote(), threads.remote()])
        """,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = {}
    for line in done.stdout.split("\n"):
        start, _, text = line.partition(") ")
        found.setdefault(start.partition(" ")[0][1:], []).append(text)
    long = found["long"]
    assert long[0] == "L" * 300_000 and long[1] == "M" * 1_000_000
    assert long[2].startswith("N" * (1 << 20)) and "all of it is in " in long[2] and len(long[2]) < (1 << 20) + 500
    assert long[3:] == ["after"]
    assert found["odd"] == [
        "invalid \ufffd\ufffd utf-8", "nul \x00 byte", "10%", "20%", "30%", "\u20ac" * 100_000, "no end"
    ]  # fmt: skip
    assert sorted(found["threads"]) == sorted(letter * 1000 for letter in "XYZ" for _ in range(200))


def test_ten_megabytes_in_one_write_arrive():
    done = run_driver(
        """
        import os
        import sparkray

        @sparkray.remote
        def flood():
            text = ("x" * 999 + "\\n").encode() * 10_000
            while text:
                text = text[os.write(1, text):]

        with sparkray.init(num_cpus=1):
            sparkray.get(flood.remote())
        """,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("x" * 999 + "\n") == 10_000, done.stdout[-300:]


STREAMS = {
    "write and flush": ("class S:\n    def write(self, t): real.write(t)\n    def flush(self): real.flush()", "S()"),
    "write only": ("class S:\n    def write(self, t): real.write(t); real.flush()", "S()"),
    "text buffer": ("", "io.StringIO()"),
    "bytes": ("", "real.buffer"),
    "ascii": ("", "io.TextIOWrapper(real.buffer, encoding='ascii', errors='strict', line_buffering=True)"),
    "none": ("", "None"),
    "closed": ("closed = io.StringIO(); closed.close()", "closed"),
    "raises": ("class S:\n    def write(self, t): raise RuntimeError('no')\n    def flush(self): pass", "S()"),
    "exits": ("class S:\n    def write(self, t): raise SystemExit(3)\n    def flush(self): pass", "S()"),
    "flush raises": ("class S:\n    def write(self, t): real.write(t)\n    def flush(self): raise OSError", "S()"),
    "no stream at all": ("", "42"),
    "asks back": (
        "class S:\n    def isatty(self): raise ZeroDivisionError\n    def write(self, t): real.write(t)", "S()"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", STREAMS)
def test_the_drivers_streams_may_be_anything(kind):
    definition, stream = STREAMS[kind]
    program = f"""
import io, sys
import sparkray

real = sys.__stdout__
{definition}

@sparkray.remote
def speak(n):
    print("hello", n, "\\u20ac")

sparkray.init(num_cpus=1)
sys.stdout = {stream}
for n in range(3):
    sparkray.get(speak.remote(n))
held = sys.stdout
sparkray.shutdown()
sys.stdout = real
if isinstance(held, io.StringIO) and not held.closed:
    real.write(held.getvalue())
real.flush()
"""
    done = run_driver(program)
    assert done.returncode == 0, done.stderr
    lines = [line.partition(") ")[2] for line in done.stdout.splitlines()]
    euro = "\\u20ac" if kind == "ascii" else "\u20ac"
    assert lines == [f"hello {n} {euro}" for n in range(3)], done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_descriptor_of_the_driver_does_not_stop_it():
    """What was descriptor 1 may be another file by then: workers' lines must not end up in it."""
    done = run_driver(
        """
        import os, sys
        import sparkray

        @sparkray.remote
        def speak(n):
            print("hello", n)
            return n

        sparkray.init(num_cpus=1)
        sys.stdout.close()
        sys.__stdout__ = None
        taken = os.open(sys.argv[0] + ".other", os.O_CREAT | os.O_RDWR)
        assert sparkray.get([speak.remote(n) for n in range(3)]) == [0, 1, 2]
        sparkray.shutdown()
        assert os.fstat(taken).st_size == 0
        """
    )
    assert done.returncode == 0, done.stderr
    assert sorted(line.partition(") ")[2] for line in done.stderr.splitlines() if "hello" in line) == [
        f"hello {n}" for n in range(3)
    ]
