"""How long actors live and what they do at their end; what counts against CPUs; errors that are values, arguments, or
that nobody asked for: as in Ray."""

# mypy: disable-error-code="attr-defined,union-attr,no-any-return"
from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from typing import Any

import pytest

import sparkray
from process.helpers import alive, run_driver, wait_until
from sparkray import exceptions

SECONDS = 60.0


@sparkray.remote
class Actor:
    def pid(self):
        return os.getpid()

    def echo(self, value):
        return value


def is_named(name: str) -> bool:
    try:
        sparkray.get_actor(name)
    except ValueError:
        return False
    return True


# ------------------------------------------------------------------------------------------- ends of actors


def test_a_named_actor_ends_with_its_last_handle_and_its_name_is_free(cluster):
    actor = Actor.options(name="a").remote()
    pid = sparkray.get(actor.pid.remote())
    looked_up = sparkray.get_actor("a")
    assert sparkray.get(looked_up.pid.remote()) == pid
    del actor
    wait_until(lambda: not is_named("a") and not alive(pid), SECONDS, "a handle that was looked up keeps nothing alive")
    with pytest.raises(exceptions.ActorDiedError):
        sparkray.get(looked_up.pid.remote(), timeout=SECONDS)
    again = Actor.options(name="a").remote()
    assert sparkray.get(again.pid.remote()) != pid


def test_a_detached_actor_does_not_end_with_its_handles(cluster):
    actor = Actor.options(name="d", lifetime="detached").remote()
    pid = sparkray.get(actor.pid.remote())
    del actor
    gc.collect()
    other = Actor.options(name="e").remote()
    sparkray.get(other.pid.remote())
    del other
    wait_until(lambda: not is_named("e"), SECONDS)
    assert sparkray.get(sparkray.get_actor("d").pid.remote()) == pid


def test_a_named_actor_that_a_task_made_ends_with_the_task(cluster):
    @sparkray.remote
    def make() -> int:
        actor = Actor.options(name="t").remote()
        return sparkray.get(actor.pid.remote())

    pid = sparkray.get(make.remote())
    wait_until(lambda: not is_named("t") and not alive(pid), SECONDS, "the task's actor ended")


def test_an_existing_actor_that_was_got_does_not_live_by_that(cluster):
    first = Actor.options(name="g", get_if_exists=True).remote()
    pid = sparkray.get(first.pid.remote())
    second = Actor.options(name="g", get_if_exists=True).remote()
    assert sparkray.get(second.pid.remote()) == pid
    del first
    wait_until(lambda: not is_named("g") and not alive(pid), SECONDS)


def test_a_handle_inside_a_call_that_runs_keeps_the_actor(cluster):
    actor = Actor.options(name="c").remote()
    sparkray.get(actor.pid.remote())

    @sparkray.remote
    def use(handles: list[Any]) -> int:
        time.sleep(0.5)
        return sparkray.get(handles[0].pid.remote())

    result = use.remote([actor])
    del actor
    assert sparkray.get(result, timeout=SECONDS) > 0


class _Recording:
    """An actor that writes down what it does at its end."""

    def __init__(self, path: str) -> None:
        import atexit

        self.path = path
        atexit.register(self.write, "atexit")

    def write(self, line: str) -> None:
        with open(self.path, "a") as file:
            file.write(line + "\n")

    def pid(self) -> int:
        return os.getpid()

    def work(self, seconds: float) -> None:
        time.sleep(seconds)
        self.write("call")

    def leave(self) -> None:
        sparkray.actor.exit_actor()

    def __ray_shutdown__(self) -> None:
        time.sleep(0.7)  # longer than a worker that is idle gets
        self.write("shutdown")

    def __del__(self) -> None:
        self.write("del")


class _RecordingAsync(_Recording):
    async def nothing(self) -> None:
        pass


ENDS = ["shutdown", "del", "atexit"]


@pytest.mark.parametrize("kind", ["plain", "threads", "async"])
@pytest.mark.parametrize("way", ["handle", "name", "exit_actor", "terminate", "kill"])
def test_what_an_actor_does_at_its_end(cluster, tmp_path, kind, way):
    path = tmp_path / "record"
    options: dict[str, Any] = {"max_concurrency": 3} if kind == "threads" else {}
    if way == "name":
        options["name"] = "recording"
    plain = _RecordingAsync if kind == "async" else _Recording
    actor = sparkray.remote(plain).options(**options).remote(str(path))
    pid = sparkray.get(actor.pid.remote(), timeout=SECONDS)
    expected = ENDS
    if way in ("handle", "name"):
        actor.work.remote(0.3)
        del actor
        expected = ["call", *ENDS]
    elif way == "kill":
        sparkray.kill(actor)
        expected = []
    else:
        call = actor.leave.remote() if way == "exit_actor" else actor.__ray_terminate__.remote()
        with pytest.raises(exceptions.ActorDiedError):
            sparkray.get(call, timeout=SECONDS)
    wait_until(lambda: not alive(pid), SECONDS, "the actor's process ended")
    assert (path.read_text().split() if path.exists() else []) == expected


# ------------------------------------------------------------------------------------------- resources


def test_a_default_actor_is_placed_while_all_cpus_are_held():
    with sparkray.init(num_cpus=1):

        @sparkray.remote
        def hold(path: str) -> None:
            Path(path).touch()
            time.sleep(600)

        import tempfile

        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "runs")
            held = hold.remote(str(path))
            wait_until(path.exists, SECONDS)
            actor = Actor.remote()
            assert sparkray.get(actor.pid.remote(), timeout=SECONDS) > 0
            with pytest.raises(exceptions.GetTimeoutError):
                sparkray.get(Actor.options(num_cpus=1).remote().pid.remote(), timeout=1)
            assert "CPU" not in sparkray.available_resources()
            del held


def test_a_default_actor_waits_on_a_node_without_cpus():
    with sparkray.init(num_cpus=0):
        with pytest.raises(exceptions.GetTimeoutError):
            sparkray.get(Actor.remote().pid.remote(), timeout=2)
        assert sparkray.get(Actor.options(num_cpus=0).remote().pid.remote(), timeout=SECONDS) > 0


def test_tasks_lend_their_cpu_while_they_wait_and_actors_keep_it():
    @sparkray.remote
    def depth(n: int) -> int:
        return 0 if n == 0 else 1 + sparkray.get(depth.remote(n - 1))

    @sparkray.remote(num_cpus=1)
    class Parent:
        def child(self, seconds: float) -> bool:
            try:
                sparkray.get(depth.remote(0), timeout=seconds)
            except exceptions.GetTimeoutError:
                return False
            return True

        def ready(self) -> None:
            pass

    with sparkray.init(num_cpus=1):
        assert sparkray.get(depth.remote(4), timeout=SECONDS) == 4
        parent = Parent.remote()
        sparkray.get(parent.ready.remote(), timeout=SECONDS)
        assert sparkray.get(parent.child.remote(2), timeout=SECONDS) is False


def test_num_cpus_none_holds_no_cpu():
    with sparkray.init(num_cpus=0):
        assert sparkray.get(sparkray.remote(os.getpid).options(num_cpus=None).remote(), timeout=SECONDS) > 0


@pytest.mark.parametrize(
    ("given", "held"), [(0.0001, 0.0001), (0.00015, 0.0001), (0.12345678, 0.1234), (0.29, 0.29), (True, 1.0)]
)
def test_fractions_are_cut_down_to_what_is_counted(cluster, given, held):
    @sparkray.remote(num_cpus=given)
    class Holder:
        def held(self) -> Any:
            return sparkray.get_runtime_context().get_assigned_resources()

    assert sparkray.get(Holder.remote().held.remote(), timeout=SECONDS) == {"CPU": held}


@pytest.mark.parametrize(("given", "error"), [(0.00001, ValueError), (-1, ValueError), ("1", TypeError)])
def test_amounts_that_mean_nothing_are_refused(given, error):
    with pytest.raises(error):
        sparkray.remote(num_cpus=given)(os.getpid)
    with pytest.raises(error):
        sparkray.remote(os.getpid).options(num_cpus=given)


# ------------------------------------------------------------------------------------------- errors


@sparkray.remote
def fail() -> None:
    raise ValueError("on purpose")


@sparkray.remote
def pass_on(value: Any) -> Any:
    return value


@sparkray.remote
def catch_and_return() -> Any:
    try:
        sparkray.get(fail.remote())
    except exceptions.RayTaskError as error:
        return error


def caught(reference: Any) -> exceptions.RayTaskError:
    with pytest.raises(exceptions.RayTaskError) as caught_error:
        sparkray.get(reference, timeout=SECONDS)
    return caught_error.value


def test_an_error_of_the_runtime_is_raised_wherever_it_is_the_value(shared):
    error = caught(fail.remote())
    for reference in (sparkray.put(error), catch_and_return.remote()):
        raised = caught(reference)
        assert isinstance(raised, ValueError) and isinstance(raised.cause, ValueError)
        failed = caught(pass_on.remote(reference))
        assert "At least one of the input arguments" in str(failed)
    with pytest.raises(exceptions.WorkerCrashedError):
        sparkray.get(sparkray.put(exceptions.WorkerCrashedError("x")), timeout=SECONDS)
    # In a container it is data, and so are other exceptions.
    (inner,) = sparkray.get(sparkray.put([error]), timeout=SECONDS)
    assert isinstance(inner, ValueError)
    assert isinstance(sparkray.get(pass_on.remote(ValueError("x")), timeout=SECONDS), ValueError)


def test_the_error_of_an_argument_names_the_calls_in_between(shared):
    error = caught(pass_on.options(name="second").remote(pass_on.options(name="first").remote(fail.remote())))
    assert isinstance(error, ValueError) and str(error.cause) == "on purpose"
    text = str(error)
    assert text.index("ray::second()") < text.index("ray::first()") < text.index("ray::fail()")
    assert text.count("At least one of the input arguments for this task could not be computed:") == 2
    assert text.endswith("ValueError: on purpose")


def test_a_long_chain_of_calls_keeps_its_first_error(shared):
    reference = fail.remote()
    for _ in range(2000):
        reference = pass_on.remote(reference)
    error = caught(reference)
    assert isinstance(error, ValueError) and len(str(error)) < 20_000


def test_an_actor_whose_constructors_argument_failed_is_dead(shared):
    @sparkray.remote
    class Needs:
        def __init__(self, value: Any) -> None:
            pass

        def ping(self) -> None:
            pass

    failed = fail.remote()
    caught(failed)
    for argument in (fail.remote(), failed):
        actor = Needs.remote(argument)
        for _ in range(2):
            with pytest.raises(exceptions.ActorDiedError, match="error raised in its creation task") as died:
                sparkray.get(actor.ping.remote(), timeout=SECONDS)
            assert "on purpose" in str(died.value) and died.value.actor_id == actor._actor_id.hex()
            assert not isinstance(died.value, ValueError)
    # An argument of a method fails the call, and the actor lives.
    living = Actor.remote()
    assert isinstance(caught(living.echo.remote(fail.remote())), ValueError)
    assert sparkray.get(living.pid.remote(), timeout=SECONDS) > 0


UNHANDLED = """
import gc, sys, time
import sparkray

@sparkray.remote
def fail(text):
    raise ValueError(text)

@sparkray.remote
def ok():
    return 1

def settle(*references):
    sparkray.wait([ok.remote()], timeout=60)

sparkray.init(num_cpus=1)
{body}
sparkray.get(ok.remote())
for _ in range(3):
    time.sleep(0.3)
    sparkray.get(ok.remote())
sys.stderr.flush()
"""


def stderr_of(body: str, **environment: str) -> str:
    done = run_driver(UNHANDLED.replace("{body}", body), 60.0, **environment)
    assert done.returncode == 0, done.stderr
    return done.stderr


FORGOTTEN = """
reference = fail.remote("kept")
sparkray.get(ok.remote())
del reference
fail.remote("dropped at once")
sparkray.get(ok.remote())
"""


def test_errors_that_nobody_asked_for_are_told_once():
    text = stderr_of(FORGOTTEN)
    assert text.count("Unhandled error (suppress with 'RAY_IGNORE_UNHANDLED_ERRORS=1'): ray::fail()") == 2, text
    assert text.count("ValueError: kept") == 1 and text.count("ValueError: dropped at once") == 1, text


def test_errors_that_nobody_asked_for_are_not_told_when_the_environment_says_so():
    assert stderr_of(FORGOTTEN, RAY_IGNORE_UNHANDLED_ERRORS="1") == ""
    # As in Ray: whatever its value, and as it is when the error is there.
    later = 'import os; os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = ""'
    assert stderr_of(later + FORGOTTEN) == ""


OF_ACTORS_AND_TASKS = """
@sparkray.remote
class Actor:
    def fail(self, text):
        raise KeyError(text)

@sparkray.remote
def outer():
    fail.remote("inside")
    sparkray.get(ok.remote())

actor = Actor.remote()
actor.fail.remote("of an actor")
sparkray.get(outer.options(num_cpus=0).remote())
"""


def test_errors_of_actors_calls_and_of_what_tasks_submit_are_told_with_their_tracebacks():
    text = stderr_of(OF_ACTORS_AND_TASKS)
    lines = [line for line in text.splitlines() if "Unhandled error (" in line]
    assert len(lines) == 2, text
    assert sum("ray::Actor.fail()" in line and line.startswith("Unhandled") for line in lines) == 1, text
    assert sum("ray::fail()" in line and line.startswith("(") for line in lines) == 1, text
    assert text.count("raise KeyError(text)") == 1 and text.count("raise ValueError(text)") == 1, text


KEPT = """
kept = [fail.remote("kept"), fail.remote("asked for")]
sparkray.wait(kept[1:])
deadline = time.monotonic() + 60
while "kept" not in told.getvalue() and time.monotonic() < deadline:
    time.sleep(0.1)
del kept
"""


def test_an_interactive_program_hears_of_errors_that_it_keeps():
    # No file is run there; a shell or a notebook may keep all references.
    interactive = (
        "import __main__, io; del __main__.__file__; real, told = sys.stderr, io.StringIO(); sys.stderr = told\n"
    )
    shown = "\nsys.stderr = real; real.write(told.getvalue())"
    done = run_driver(
        UNHANDLED.replace("sparkray.init(", interactive + "sparkray.init(").replace("{body}", KEPT) + shown, 120.0
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Unhandled error (") == 1 and "ValueError: kept" in done.stderr, done.stderr


ASKED = """
for use in (
    lambda r: sparkray.get(r),
    lambda r: sparkray.wait([r]),
    lambda r: sparkray.get([ok.remote(), r]),
    lambda r: sparkray.get(sparkray.remote(lambda x: x).remote(r)),
    lambda r: sparkray.get(sparkray.remote(lambda x: sparkray.get(x[0])).remote([r])),
):
    reference = fail.remote("seen")
    try:
        use(reference)
    except ValueError:
        pass
    del reference
    gc.collect()
    sparkray.get(ok.remote())
left = fail.remote("at the end")
sparkray.get(ok.remote())
"""


def test_errors_that_somebody_asked_for_or_that_live_to_the_end_are_not_told():
    assert stderr_of(ASKED) == ""


def test_a_flood_of_unhandled_errors_is_counted():
    text = stderr_of(
        "for n in range(500):\n    fail.remote(str(n))\nsparkray.get(ok.remote())\ntime.sleep(1.1)\n"
        "fail.remote('last')\nsparkray.get(ok.remote())"
    )
    told = text.count("Unhandled error (")
    assert 0 < told <= 100 and "more unhandled errors came faster than they were printed" in text, text


# ------------------------------------------------------------------------------------------- small things


def test_get_with_a_timeout_below_zero_waits(cluster):
    @sparkray.remote
    def late() -> int:
        time.sleep(0.3)
        return 1

    assert sparkray.get(late.remote(), timeout=-1) == 1
    with pytest.raises(ValueError, match="timeout"):
        sparkray.wait([late.remote()], timeout=-1)


def test_what_only_a_worker_knows_is_an_assertion_error_in_a_driver(cluster):
    context = sparkray.get_runtime_context()
    for ask in (
        lambda: context.task_id,
        lambda: context.actor_id,
        lambda: context.was_current_actor_reconstructed,
        context.get_assigned_resources,
    ):
        with pytest.raises(AssertionError, match="only available when the process is a worker"):
            ask()
    assert context.get_task_id() is None and context.get_actor_id() is None
    assert "task_id" not in context.get()


def test_several_results_of_things_that_have_no_length_or_more_values(cluster):
    @sparkray.remote(num_returns=2)
    def give(kind: str) -> Any:
        return {"int": 1, "none": None, "dict": {"a": 1, "b": 2}, "str": "xy", "three": [1, 2, 3]}.get(
            kind, (n for n in range(3))
        )

    assert sparkray.get(give.remote("generator")) == [0, 1]
    assert sparkray.get(give.remote("dict")) == ["a", "b"]
    assert sparkray.get(give.remote("str")) == ["x", "y"]
    for kind, error in (("int", TypeError), ("none", TypeError), ("three", ValueError)):
        for reference in give.remote(kind):
            assert isinstance(caught(reference), error)


def test_what_a_node_has_by_itself(cluster):
    import socket

    resources = sparkray.cluster_resources()
    assert resources["node:__internal_head__"] == 1.0
    (node,) = sparkray.nodes()
    assert node["NodeManagerHostname"] == socket.gethostname()
    assert node["Labels"]["ray.io/node-id"] == node["NodeID"]
