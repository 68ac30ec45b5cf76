"""A driver that imports modules from everywhere, and compares what it got with what its workers get."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap
import zipfile

# Arguments: the master ("init" for a cluster without Spark), the directory of `lay_out`.
PROGRAM = """
import json, os, sched, sys

master, root = sys.argv[1:3]
sys.path.append(os.path.join(root, "appended"))
sys.path.append("relative")
sys.path.insert(1, os.path.join(root, "with:colon"))
sys.path.insert(1, os.path.join(root, "inserted"))
import bisect, colorsys  # from "inserted", as sched would be if it was not there already

import sparkray

names = ["beside", "package.inner", "appended", "relative_module", "colon", "inserted"]
names += ["random", "statistics", "bisect", "colorsys", "sched"]
names += ["numpy", "pandas", "cloudpickle", "sparkray", "pyarrow"]

@sparkray.remote
def look(names):
    import importlib
    found = {}
    for name in names:
        module = importlib.import_module(name)
        found[name] = [getattr(module, "__file__", None), getattr(module, "VERSION", None)]
    return found

@sparkray.remote
class Look:
    def __init__(self, what):
        self.what = type(what).__module__

    def look(self, names):
        return self.what, look._function(names)

def compare(names):
    mine = look._function(names)
    for theirs in sparkray.get([look.remote(names) for _ in range(4)]):
        assert theirs == mine, {name: (theirs[name], mine[name]) for name in mine if theirs[name] != mine[name]}
    import beside
    assert sparkray.get(Look.remote(beside.Thing()).look.remote(names)) == ("beside", mine)
    return mine

context = None
if master == "init":
    sparkray.init(num_cpus=2)
else:
    from sparkray.spark import RayContext, init_spark_on_local
    files = os.path.join(root, "files")
    conf = {
        "spark.master": master,
        "spark.ui.enabled": "false",
        "spark.ray.memory.budget": "1g",
        "spark.ray.init.timeout": "120s",
        "spark.submit.pyFiles": f"{files}/listed.py,{files}/listed.zip",
        **json.loads(os.environ.get("MORE_CONF", "{}")),
    }
    if master.startswith("local"):
        sc = init_spark_on_local(memory="1g", conf=conf)
    else:
        from sparkray.spark import gateway, packaging
        conf |= {"spark.plugins": "org.sparkray.RayPlugin", "spark.jars": packaging.jar_path()}
        sc = gateway.start_context(conf, {})
    sc.addPyFile(f"{files}/before.py")
    sc.addPyFile(f"{files}/before.zip")
    names += ["listed", "in_listed_zip", "before", "in_before_zip"]
    context = RayContext(sc, object_store_memory="64m")
    context.init()

mine = compare(names)
assert mine["colorsys"][1] == "inserted" and mine["sched"][1] is None and mine["random"][1] is None, mine
assert mine["bisect"][1] == "inserted", mine
assert mine["statistics"][1] is None and mine["pandas"][1] is None, mine

# What comes later: with code that was sent before, and with new code.
if context is not None:
    sc.addPyFile(f"{files}/after.py")
    sc.addPyFile(f"{files}/after.zip")
    mine |= compare(["after", "in_after_zip"])
sys.path.insert(0, os.path.join(root, "late"))
import late

@sparkray.remote
def use(thing):
    import late
    return late.__file__, type(thing).__module__

assert sparkray.get(use.remote(late.Thing())) == (late.__file__, "late")
assert sparkray.get(look.remote(["late"])) == {"late": [late.__file__, "late"]}
if context is not None:
    context.stop()
    sc.stop()
sparkray.shutdown()
print("SAME", json.dumps(mine))
"""


def lay_out(root: pathlib.Path) -> pathlib.Path:
    """Makes the directories that the program knows, and returns the program."""

    def module(path: str, version: str) -> None:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"VERSION = {version!r}\n\n\nclass Thing:\n    pass\n")

    module("app/beside.py", "beside")
    module("app/package/__init__.py", "package")
    module("app/package/inner.py", "inner")
    module("appended/appended.py", "appended")
    module("with:colon/colon.py", "colon")
    module("inserted/inserted.py", "inserted")
    module("late/late.py", "late")
    module("work/relative/relative_module.py", "relative")
    module("inserted/colorsys.py", "inserted")
    module("inserted/sched.py", "never")
    # The zygote has the standard one of this.
    module("inserted/bisect.py", "inserted")
    with open(root / "inserted" / "bisect.py", "a") as file:
        file.write("\n\nfrom _bisect import *\n\nbisect, insort = bisect_right, insort_right\n")
    # In the working directory, where the program is not, and behind the standard library and the installed packages.
    for name in ("random", "statistics", "asyncio", "json", "numpy", "cloudpickle"):
        module(f"work/{name}.py", "never")
    for name in ("statistics", "pandas", "numpy", "pyarrow"):
        module(f"appended/{name}.py", "never")
    (root / "files").mkdir()
    for name in ("listed", "before", "after"):
        module(f"files/{name}.py", name)
        with zipfile.ZipFile(root / "files" / f"{name}.zip", "w") as archive:
            archive.writestr(f"in_{name}_zip.py", f"VERSION = {name!r}\n")
    program = root / "app" / "main.py"
    program.write_text(textwrap.dedent(PROGRAM))
    return program


def run(program: pathlib.Path, root: pathlib.Path, master: str, python: str = sys.executable, **extra: str) -> str:
    """Runs the program; returns what it printed, or fails with its errors."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, str(program), master, str(root)],
        cwd=root / "work",
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1", **extra},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0 and "SAME" in done.stdout, done.stdout + done.stderr
    return done.stdout
