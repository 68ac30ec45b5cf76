"""What a task raises arrives with its class and the worker's traceback."""

# mypy: disable-error-code="attr-defined,union-attr,name-defined,import-not-found"
from __future__ import annotations

import asyncio
import os
import pickle
import sys
import threading

import pytest

import sparkray
from sparkray import exceptions

pytestmark = pytest.mark.usefixtures("shared")


class NeedsTwo(ValueError):
    """An exception whose `args` are not the parameters of its constructor."""

    def __init__(self, what, extra):
        super().__init__(f"{what} and {extra}")
        self.extra = extra


class HoldsLock(Exception):
    """An exception that cannot be pickled."""

    def __init__(self):
        super().__init__("has a lock")
        self.lock = threading.Lock()


@sparkray.remote
def fail(kind, *args):
    def inner_function():
        raise kind(*args)

    inner_function()


@sparkray.remote
def use(value):
    return value


def test_the_exception_has_its_own_class_and_rays():
    with pytest.raises(ZeroDivisionError) as caught:
        sparkray.get(fail.remote(ZeroDivisionError, "nothing"))
    error = caught.value
    assert isinstance(error, exceptions.RayTaskError)
    assert isinstance(error, exceptions.RayError)
    assert type(error.cause) is ZeroDivisionError
    assert error.cause.args == ("nothing",)
    assert error.pid != os.getpid()


def test_the_text_is_the_workers_traceback_without_our_own_frames():
    with pytest.raises(KeyError) as caught:
        sparkray.get(fail.remote(KeyError, "key"))
    text = str(caught.value)
    assert text.startswith("ray::fail() (pid=")
    assert "inner_function" in text
    assert "test_errors.py" in text
    assert "KeyError: 'key'" in text
    assert "sparkray/_private" not in text


def test_exceptions_of_os_keep_their_fields():
    @sparkray.remote
    def open_it():
        open("/does/not/exist").close()

    with pytest.raises(FileNotFoundError) as caught:
        sparkray.get(open_it.remote())
    assert caught.value.errno == 2
    assert caught.value.filename == "/does/not/exist"


def test_an_exception_with_a_constructor_of_its_own_arrives():
    with pytest.raises(NeedsTwo) as caught:
        sparkray.get(fail.remote(NeedsTwo, "one", "two"))
    assert caught.value.extra == "two"


def test_an_exception_that_cannot_be_pickled_arrives_as_text():
    with pytest.raises(exceptions.RayTaskError) as caught:
        sparkray.get(fail.remote(HoldsLock))
    assert isinstance(caught.value.cause, exceptions.RayError)
    assert "has a lock" in str(caught.value)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups came with Python 3.11")
def test_a_group_of_exceptions_stays_a_group():
    @sparkray.remote
    def group():
        raise ExceptionGroup("several", [ValueError(1), KeyError(2)])  # noqa: F821

    with pytest.raises(ExceptionGroup) as caught:  # noqa: F821
        sparkray.get(group.remote())
    assert len(caught.value.exceptions) == 2


def test_the_error_of_an_argument_is_the_error_of_the_task():
    with pytest.raises(ZeroDivisionError, match="first"):
        sparkray.get(use.remote(use.remote(fail.remote(ZeroDivisionError, "first"))))


def test_an_error_passes_through_nested_tasks():
    @sparkray.remote
    def outer():
        return sparkray.get(fail.remote(IndexError, "deep"))

    with pytest.raises(IndexError, match="deep") as caught:
        sparkray.get(outer.remote())
    assert "ray::outer()" in str(caught.value)
    assert "ray::fail()" in str(caught.value)


def test_the_error_can_be_pickled():
    with pytest.raises(ZeroDivisionError) as caught:
        sparkray.get(fail.remote(ZeroDivisionError, "x"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, ZeroDivisionError)
    assert str(copy) == str(caught.value)


def test_an_error_is_ready_and_is_raised_by_every_get():
    reference = fail.remote(ValueError, "again")
    assert sparkray.wait([reference], timeout=60)[0] == [reference]
    for _ in range(2):
        with pytest.raises(ValueError, match="again"):
            sparkray.get(reference)


def test_get_of_a_list_raises_when_one_failed():
    with pytest.raises(ValueError, match="one"):
        sparkray.get([use.remote(1), fail.remote(ValueError, "one"), use.remote(2)])


def test_the_first_failure_ends_a_get_of_several():
    @sparkray.remote(num_cpus=0)
    class Gate:
        def __init__(self):
            self.event = threading.Event()

        def wait(self):
            self.event.wait()

        def open(self):
            self.event.set()

        def fail(self, text):
            raise ValueError(text)

    closed, other = Gate.options(max_concurrency=2).remote(), Gate.remote()
    never = closed.wait.remote()
    failing = other.fail.remote("at once")
    for references in ([never, failing], [failing, never], [use.remote(1), never, failing]):
        with pytest.raises(ValueError, match="at once"):
            sparkray.get(references, timeout=60)
    # Failed before the wait begins.
    with pytest.raises(ValueError, match="at once"):
        sparkray.get([never, failing], timeout=0)
    # Of several that failed, the first in the list.
    second = other.fail.remote("second")
    sparkray.wait([failing, second], num_returns=2)
    with pytest.raises(ValueError, match="second"):
        sparkray.get([never, second, failing], timeout=60)
    with pytest.raises(exceptions.GetTimeoutError):
        sparkray.get([use.remote(1), never], timeout=0.3)
    closed.open.remote()
    assert sparkray.get([never, use.remote(3)], timeout=60) == [None, 3]


def test_a_dead_actor_ends_a_get_of_several():
    @sparkray.remote(num_cpus=0)
    class Sleeper:
        def sleep(self):
            threading.Event().wait()

    one, two = Sleeper.remote(), Sleeper.remote()
    references = [one.sleep.remote(), two.sleep.remote()]
    threading.Timer(0.2, lambda: sparkray.kill(two)).start()
    with pytest.raises(exceptions.ActorDiedError) as caught:
        sparkray.get(references, timeout=60)
    assert caught.value.actor_id == two._actor_id.hex()
    sparkray.kill(one)


def test_the_error_of_an_actor_keeps_its_id_through_a_task():
    @sparkray.remote(num_cpus=0)
    class Short:
        def leave(self):
            os._exit(1)

    @sparkray.remote
    def ask(handle):
        return sparkray.get(handle.leave.remote())

    short = Short.remote()
    with pytest.raises(exceptions.ActorDiedError) as caught:
        sparkray.get(ask.remote(short), timeout=60)
    assert isinstance(caught.value, exceptions.RayTaskError)
    assert caught.value.actor_id == short._actor_id.hex()
    with pytest.raises(exceptions.ActorDiedError) as caught:
        sparkray.get(short.leave.remote(), timeout=60)
    assert caught.value.actor_id == short._actor_id.hex()


def test_an_exception_whose_class_is_not_here_arrives_as_text(tmp_path):
    (tmp_path / "only_in_workers.py").write_text("class Private(Exception):\n    pass\n")

    @sparkray.remote
    def raise_it():
        sys.path.insert(0, str(tmp_path))
        try:
            import only_in_workers
        finally:
            sys.path.remove(str(tmp_path))
        raise only_in_workers.Private("secret")

    with pytest.raises(exceptions.UnserializableException, match="only_in_workers") as caught:
        sparkray.get(raise_it.options(max_retries=0).remote())
    assert "raise_it" in str(caught.value)
    assert "secret" in str(caught.value)


class Crowded(Exception):
    """An exception with attributes that Ray's errors have too."""

    def __init__(self, text):
        super().__init__(text)
        self.pid = "its pid"
        self.ip = "its ip"
        self.actor_id = "its actor"
        self.function_name = "its function"
        self.fields = ["its", "fields"]


def test_attributes_of_the_exception_are_not_replaced_by_ours():
    with pytest.raises(Crowded) as caught:
        sparkray.get(fail.remote(Crowded, "text"))
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert error.pid == "its pid"
        assert error.ip == "its ip"
        assert error.actor_id == "its actor"
        assert error.function_name == "its function"
        assert error.fields == ["its", "fields"]
        assert str(error).startswith("ray::fail() (pid=")
        assert "its pid" not in str(error)


def test_an_argument_that_cannot_be_pickled_is_named():
    with pytest.raises(TypeError, match=r"argument 'value' of use\(\).*_thread\.lock"):
        use.remote(threading.Lock())
    with pytest.raises(TypeError, match=r"its part \['a'\]\[1\] is a _thread\.lock"):
        use.remote({"a": [1, threading.Lock()]})
    with pytest.raises(TypeError, match=r"put\(\)"):
        sparkray.put(threading.Lock())
    assert sparkray.get(use.remote(1)) == 1


def test_a_function_that_cannot_be_pickled_is_named_with_what_it_refers_to():
    lock = threading.Lock()

    @sparkray.remote
    def hold():
        return lock

    with pytest.raises(TypeError, match="function hold.*closure variable lock"):
        hold.remote()


def test_a_result_that_cannot_be_pickled_is_an_error_of_the_task():
    @sparkray.remote
    def make_lock():
        return threading.Lock()

    with pytest.raises(TypeError, match="lock"):
        sparkray.get(make_lock.remote())


def test_a_module_that_the_worker_lacks_is_named():
    @sparkray.remote
    def import_it():
        import not_a_module_of_anybody

        return not_a_module_of_anybody

    with pytest.raises(ModuleNotFoundError, match="not_a_module_of_anybody"):
        sparkray.get(import_it.remote())


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_would_end_a_program_is_an_error_of_the_task_and_does_not_end_the_driver(kind):
    with pytest.raises(exceptions.RayTaskError) as caught:
        sparkray.get(fail.options(max_retries=0).remote(kind, 3), timeout=60)
    # The program that asks goes on: only what cannot end it may be of the error's class.
    assert isinstance(caught.value, kind) == (kind is GeneratorExit)
    assert type(caught.value.cause) is (exceptions.TaskCancelledError if kind is KeyboardInterrupt else kind)
    assert kind.__name__ in str(caught.value)
    assert sparkray.get(use.remote(1), timeout=60) == 1


@pytest.mark.parametrize("kind", [MemoryError, OSError, KeyError, UnicodeError, StopIteration, AssertionError])
def test_built_in_exceptions_keep_their_class(kind):
    with pytest.raises(kind) as caught:
        sparkray.get(fail.remote(kind, "text"), timeout=60)
    assert isinstance(caught.value, exceptions.RayTaskError)
    assert caught.value.args == ("text",)


class MadeByNew(ValueError):
    """An exception with a `__new__` of its own."""

    def __new__(cls, what, extra):
        self = super().__new__(cls, what)
        self.extra = extra
        return self

    def __init__(self, what, extra):
        super().__init__(what)


def test_an_exception_with_a_new_of_its_own_arrives():
    with pytest.raises(MadeByNew, match="one") as caught:
        sparkray.get(fail.remote(MadeByNew, "one", "two"))
    assert caught.value.extra == "two"


def test_get_times_out():
    @sparkray.remote
    def forever():
        import time

        time.sleep(3)

    reference = forever.remote()
    with pytest.raises(exceptions.GetTimeoutError):
        sparkray.get(reference, timeout=0.1)
    with pytest.raises(TimeoutError):
        sparkray.get([reference], timeout=0)
    assert sparkray.get(reference, timeout=60) is None


@pytest.mark.parametrize("bad", [3, "x", {"a": 1}, None], ids=repr)
def test_get_of_something_else_is_refused(bad):
    with pytest.raises(ValueError, match="ObjectRef"):
        sparkray.get(bad)
    with pytest.raises(TypeError, match="expected an ObjectRef"):
        sparkray.get([sparkray.put(1), bad])


def test_constructors_take_what_rays_take():
    inner = exceptions.RayTaskError("f", "Traceback: text", ValueError("x"), pid=7, ip="1.2.3.4", actor_id="ab")
    died = exceptions.ActorDiedError(inner)
    assert died.actor_id == "ab"
    assert died.actor_init_failed
    made = [
        exceptions.RayActorError(actor_id="aa", error_msg="gone", preempted=True),
        died,
        exceptions.ActorDiedError(),
        exceptions.ActorUnavailableError("restarts", b"\x01\x02"),
        exceptions.TaskCancelledError(task_id="cc", error_message="by hand"),
        exceptions.ObjectLostError("dd", "somebody", ""),
        exceptions.UnserializableException("a traceback"),
        exceptions.OwnerDiedError("ee", None, ""),
        exceptions.ActorAlreadyExistsError("taken"),
        exceptions.GetTimeoutError("late"),
        inner,
    ]
    for error in made:
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        again_attributes = {name: str(value) for name, value in vars(again).items()}
        assert again_attributes == {name: str(value) for name, value in vars(error).items()}
    assert made[0].preempted
    assert made[3].actor_id == "0102"
    assert "cc" in str(made[4])
    assert "by hand" in str(made[4])


def test_names_and_hierarchy_are_rays():
    assert issubclass(exceptions.GetTimeoutError, TimeoutError)
    assert issubclass(exceptions.ActorDiedError, exceptions.RayActorError)
    assert issubclass(exceptions.ActorUnavailableError, exceptions.RayActorError)
    assert issubclass(exceptions.OwnerDiedError, exceptions.ObjectLostError)
    for name in set(exceptions.__all__) - {"RAY_EXCEPTION_TYPES"}:
        assert issubclass(getattr(exceptions, name), exceptions.RayError), name


class Unusual(BaseException):
    """Not an Exception, as the base of some libraries' control flow."""

    def __init__(self, what, *, code):
        super().__init__(what)
        self.code = code


def _own_new(what):
    class OwnNew(BaseException):
        def __new__(cls, *args):
            return super().__new__(cls, *args)

    return OwnNew(what)


BASE_EXCEPTIONS = {
    "own": lambda: Unusual("x", code=7),
    "own __new__": lambda: _own_new("x"),
    "GeneratorExit": lambda: GeneratorExit("x"),
    "CancelledError": lambda: asyncio.CancelledError("x"),
}


@sparkray.remote
class Raiser:
    def fail(self, make):
        raise make()

    def pid(self):
        return os.getpid()


@sparkray.remote
class AsyncRaiser:
    async def fail(self, make):
        raise make()

    async def pid(self):
        return os.getpid()


@sparkray.remote
def fail_with(make):
    raise make()


@pytest.mark.parametrize("kind", BASE_EXCEPTIONS)
def test_what_is_no_exception_keeps_its_class_too(kind):
    make = BASE_EXCEPTIONS[kind]
    callers = [fail_with.remote]
    actors = [Raiser.remote(), Raiser.options(max_concurrency=2).remote(), AsyncRaiser.remote()]
    before = sparkray.get([actor.pid.remote() for actor in actors])
    callers += [actor.fail.remote for actor in actors]
    for call in callers:
        with pytest.raises(BaseException) as caught:
            sparkray.get(call(make))
        error = caught.value
        assert isinstance(error, exceptions.RayTaskError)
        names = [kind.__name__ for kind in type(error).__mro__]
        assert type(make()).__name__ in names, names
        if kind == "own":
            assert isinstance(error, Unusual) and error.code == 7
    assert sparkray.get([actor.pid.remote() for actor in actors]) == before, "the actors live on"


def test_an_interrupt_in_a_task_is_a_cancelled_task():
    actor = Raiser.remote()
    before = sparkray.get(actor.pid.remote())
    for call in (fail_with.remote, actor.fail.remote):
        with pytest.raises(exceptions.TaskCancelledError) as caught:
            sparkray.get(call(lambda: KeyboardInterrupt()))
        assert isinstance(caught.value, exceptions.RayTaskError)
        assert not isinstance(caught.value, KeyboardInterrupt)
        assert "KeyboardInterrupt" in str(caught.value)
    assert sparkray.get(actor.pid.remote()) == before


@sparkray.remote
def fail_with_notes(shape):
    error: Exception
    if shape == "required":
        error = NeedsTwo("a", "b")
    elif shape == "lock":
        error = HoldsLock()
    elif shape == "group":
        inner = ValueError("inner")
        inner.add_note("of the inner one")
        error = ExceptionGroup("several", [inner])  # noqa: F821
    else:
        error = KeyError("x")
    error.add_note("first note")
    error.add_note("second note")
    raise error


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
@pytest.mark.parametrize("shape", ["plain", "required", "lock", "group"])
def test_notes_are_on_the_error_that_is_raised(shape):
    with pytest.raises(exceptions.RayTaskError) as caught:
        sparkray.get(fail_with_notes.remote(shape))
    error = caught.value
    assert error.__notes__ == ["first note", "second note"]
    assert "first note" in str(error)
    if shape == "group":
        assert error.exceptions[0].__notes__ == ["of the inner one"]
    error.add_note("of the driver")
    if shape != "lock":  # what cannot travel has a stand-in
        assert error.cause.__notes__ == ["first note", "second note"]
    again = pickle.loads(pickle.dumps(error)) if shape != "required" else error
    assert again.__notes__ == ["first note", "second note", "of the driver"]

    @sparkray.remote
    def note_and_raise(inner):
        try:
            sparkray.get(inner[0])
        except exceptions.RayTaskError as problem:
            problem.add_note("of the task between")
            raise

    with pytest.raises(exceptions.RayTaskError) as caught:
        sparkray.get(note_and_raise.remote([fail_with_notes.remote(shape)]))
    assert caught.value.__notes__ == ["first note", "second note", "of the task between"]


def test_tracebacks_name_the_file_and_show_the_source_line():
    """Whatever cloudpickle makes of the name of the file: versions since 3.1.3 leave it out."""

    @sparkray.remote
    def outer():
        def inner():
            raise RuntimeError("in a closure")  # the line that is shown

        inner()

    @sparkray.remote
    class Actor:
        def method(self):
            raise RuntimeError("in a method")  # the line that is shown

    for reference in (outer.remote(), Actor.remote().method.remote()):
        with pytest.raises(RuntimeError) as caught:
            sparkray.get(reference)
        text = str(caught.value)
        assert f'File "{__file__}", line ' in text
        assert "# the line that is shown" in text


class Untrue(Exception):
    def __bool__(self) -> bool:
        raise RuntimeError("no truth")


class Secretive(Exception):
    def __getattr__(self, name: str) -> object:
        raise RuntimeError(f"no {name}")


@pytest.mark.parametrize("kind", [Untrue, Secretive])
def test_an_exception_with_a_will_of_its_own_is_still_the_tasks_error(kind):
    @sparkray.remote(max_retries=0)
    def fails():
        raise kind("the message")

    with pytest.raises(exceptions.RayTaskError) as caught:
        sparkray.get(fails.remote(), timeout=60)
    assert "the message" in str(caught.value) and "test_errors.py" in caught.value.traceback_str
