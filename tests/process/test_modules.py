"""What the driver imports, its workers import: `init()`. tests/spark/test_modules.py has the same on Spark."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from process.helpers import run_driver
from support import modules_program


def test_modules_come_from_where_the_driver_has_them(tmp_path):
    program = modules_program.lay_out(tmp_path)
    modules_program.run(program, tmp_path, "init")


def test_directories_of_pythonpath_come_in_their_place(tmp_path):
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "pyarrow.py").write_text("VERSION = 'of PYTHONPATH'\n__version__ = '25'\n")
    (tmp_path / "env" / "sitecustomize.py").write_text("import builtins\nbuiltins.CUSTOMIZED = True\n")
    done = run_driver(
        """
        import builtins, pyarrow, sparkray, subprocess, sys, os

        @sparkray.remote
        def look():
            import pyarrow
            inner = subprocess.check_output([sys.executable, "-c", "import pyarrow; print(pyarrow.VERSION)"], text=True)
            return pyarrow.__file__, builtins.CUSTOMIZED, inner.strip(), [n for n in os.environ if n.endswith("_PATH")]

        sparkray.init(num_cpus=1)
        mine = pyarrow.__file__, builtins.CUSTOMIZED, "of PYTHONPATH", [n for n in os.environ if n.endswith("_PATH")]
        assert sparkray.get(look.remote()) == mine, (sparkray.get(look.remote()), mine)
        """,
        PYTHONPATH=str(tmp_path / "env"),
    )
    assert done.returncode == 0, done.stderr


def test_a_program_given_as_text_has_its_working_directory(tmp_path):
    program = modules_program.lay_out(tmp_path)
    (tmp_path / "work" / "here.py").write_text("VERSION = 'here'\n")
    for name in ("random", "statistics", "asyncio", "json", "numpy", "cloudpickle"):
        (tmp_path / "work" / f"{name}.py").unlink()
    text = """
        import here, sparkray
        sparkray.init(num_cpus=1)
        assert sparkray.get(sparkray.remote(lambda: __import__("here").__file__).remote()) == here.__file__
    """
    for arguments in (["-c", textwrap.dedent(text)], ["-"]):
        done = subprocess.run(
            [sys.executable, *arguments],
            input=textwrap.dedent(text),
            cwd=program.parent.parent / "work",
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def sparse_environment(tmp_path_factory):
    """A virtual environment over a base that has packages too, one of them installed in editable mode."""
    root = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", root / "venv"], check=True)
    site_packages = next((root / "venv" / "lib").glob("python*/site-packages"))
    # The base interpreter is not ours to install into: what stands for it comes last, as its directory does.
    ours = pathlib.Path(str(importlib.metadata.distribution("sparkray").locate_file("")))
    (site_packages / "zz_base.pth").write_text(f"{ours}\n")
    source = root / "source"
    source.mkdir()
    (source / "editable_path.py").write_text("VERSION = 'by path'\n")
    (site_packages / "__editable__.by_path-1.0.pth").write_text(f"{source}\n")
    hooked = root / "hooked"
    hooked.mkdir()
    (hooked / "editable_hook.py").write_text("VERSION = 'by hook'\n")
    (site_packages / "__editable___hook_finder.py").write_text(
        "import sys\nfrom importlib.util import spec_from_file_location\n\n\nclass Finder:\n"
        "    @staticmethod\n    def find_spec(name, path=None, target=None):\n"
        f"        if name == 'editable_hook':\n            return spec_from_file_location(name, {str(hooked)!r} + "
        "'/editable_hook.py')\n\n\ndef install():\n    sys.meta_path.append(Finder)\n"
    )
    (site_packages / "__editable__.by_hook-1.0.pth").write_text(
        "import __editable___hook_finder; __editable___hook_finder.install()\n"
    )
    # A package that both have, in two versions.
    (site_packages / "both.py").write_text("VERSION = 'of the environment'\n")
    return root / "venv" / "bin" / "python"


def test_environments_over_a_base_and_editable_packages(sparse_environment, tmp_path):
    text = """
        import sys
        import both, editable_hook, editable_path, sparkray

        names = ["both", "editable_hook", "editable_path", "cloudpickle", "numpy", "sparkray", "json"]

        @sparkray.remote
        def look():
            return {name: __import__(name).__file__ for name in names}, sys.prefix, sys.path

        sparkray.init(num_cpus=1)
        assert sparkray.get(look.remote()) == look._function(), (sparkray.get(look.remote()), look._function())
        assert both.VERSION == "of the environment"
    """
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(text))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sparse_environment, program], capture_output=True, text=True, timeout=100, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr


def test_files_of_spark_reach_machines_that_lack_their_directory(tmp_path):
    """The driver's directory is taken away as soon as it was published, as it is on another machine from the start."""
    done = run_driver(
        f"""
        import os, sys, zipfile
        import sparkray
        from sparkray._private import job_modules, worker

        root, hidden = {str(tmp_path / "files")!r}, {str(tmp_path / "hidden")!r}
        os.makedirs(root)
        os.chdir({str(tmp_path)!r})

        def add(name):
            with open(os.path.join(root, name + ".py"), "w") as file:
                file.write(f"VERSION = {{name!r}}")
            archive = os.path.join(root, name + ".zip")
            with zipfile.ZipFile(archive, "w") as file:
                file.writestr(f"in_{{name}}_zip.py", f"VERSION = {{name!r}}")
            sys.path.insert(1, archive)
            with open(os.path.join(root, name + ".dat"), "w") as file:
                file.write("not a module")

        sparkray.init(num_cpus=2)
        sys.path.insert(1, root)
        add("first")
        job_modules.begin(worker.core_worker(), job_modules.Origin(files_root=root, ship_files=True))
        os.rename(root, hidden)

        @sparkray.remote
        def versions(*names):
            return [(__import__(name).VERSION, os.path.dirname(__import__(name).__file__)) for name in names]

        @sparkray.remote
        class Actor:
            def versions(self, *names):
                return versions._function(*names)

        actor = Actor.remote()
        for call in [versions.remote, versions.remote, actor.versions.remote]:
            (plain, directory), (zipped, _) = sparkray.get(call("first", "in_first_zip"))
            assert (plain, zipped) == ("first", "first")
            assert not directory.startswith(root)
            assert sorted(os.listdir(directory)) == ["first.py", "first.zip"], os.listdir(directory)
        os.rename(hidden, root)
        add("second")
        job_modules.publish_changes(files_too=True)
        os.rename(root, hidden)
        for call in [versions.remote, versions.remote, actor.versions.remote]:
            found = sparkray.get(call("second", "in_second_zip", "first"))
            assert [version for version, _ in found] == ["second", "second", "first"]
        try:
            sparkray.get(versions.remote("not_there_at_all"))
            raise SystemExit("no error")
        except ModuleNotFoundError:
            pass
        """
    )
    assert done.returncode == 0, done.stderr


def test_what_a_task_adds_to_its_path_stays(tmp_path):
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "late_module.py").write_text("")
    done = run_driver(
        f"""
        import sys
        import sparkray

        sparkray.init(num_cpus=1)
        path = sparkray.get(sparkray.remote(lambda: sys.path.append("/of/the/task")).remote())
        sys.path.append({str(tmp_path / "late")!r})
        import late_module
        found = sparkray.get(sparkray.remote(lambda: (late_module.__file__, sys.path)).remote())
        assert found[0] == late_module.__file__ and found[1][-1] == "/of/the/task", found
        # Relative entries are where the driver is.
        sys.path.append("late")
        import os
        os.chdir({str(tmp_path / "late")!r})
        os.mkdir("late")
        open("late/of_the_new_directory.py", "w").close()
        import of_the_new_directory
        found = sparkray.get(sparkray.remote(lambda: of_the_new_directory.__file__).remote())
        assert found == of_the_new_directory.__file__
        """
    )
    assert done.returncode == 0, done.stderr


def test_a_numpy_beside_the_script_is_the_programs_business(tmp_path):
    """One that the program does not import is imported by nobody, and one that it does import is the worker's too."""
    (tmp_path / "numpy.py").write_text("raise RuntimeError('of the user')\n")
    (tmp_path / "main.py").write_text(
        textwrap.dedent(
            """
            import sparkray
            sparkray.init(num_cpus=1)
            assert sparkray.get(sparkray.remote(lambda: 1).remote(), timeout=60) == 1
            """
        )
    )
    command = [sys.executable, str(tmp_path / "main.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_a_working_directory_that_was_deleted(tmp_path):
    """Before init() it is an error that says so, because workers need one; afterwards it is no trouble."""
    done = run_driver(
        f"""
        import os
        import sparkray

        os.mkdir({str(tmp_path / "gone")!r})
        os.chdir({str(tmp_path / "gone")!r})
        os.rmdir({str(tmp_path / "gone")!r})
        try:
            sparkray.init(num_cpus=1)
            raise SystemExit("no error")
        except FileNotFoundError as error:
            assert "working directory" in str(error) and "deleted" in str(error), error
        os.mkdir({str(tmp_path / "gone")!r})
        os.chdir({str(tmp_path / "gone")!r})
        sparkray.init(num_cpus=1)
        os.rmdir({str(tmp_path / "gone")!r})
        assert sparkray.get([sparkray.remote(num_cpus=0)(lambda: 3).remote() for _ in range(4)]) == [3] * 4
        """
    )
    assert done.returncode == 0, done.stderr


def test_a_module_that_nobody_has_does_not_wait_for_a_head_that_is_stopped():
    done = run_driver(
        """
        import os, signal, time
        import sparkray
        from sparkray._private import worker

        @sparkray.remote
        def look():
            started = time.monotonic()
            for name in ("not_there", "not_there_either", "nor_this"):
                try:
                    __import__(name)
                except ModuleNotFoundError:
                    pass
            child = os.fork()
            if child == 0:
                try:
                    __import__("not_in_a_fork")
                except ModuleNotFoundError:
                    os._exit(0)
                os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
            return time.monotonic() - started

        sparkray.init(num_cpus=1)
        head = worker.state.on_shutdown.__self__.head_pid
        sparkray.get(look.remote())
        os.kill(head, signal.SIGSTOP)
        try:
            print("SECONDS", sparkray.get(look.remote(), timeout=60))
        finally:
            os.kill(head, signal.SIGCONT)
        """
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 10
