//! How a node's Python is started: without the directories of the user, which may have modules that are called like
//! standard ones.
//!
//! `PYTHONPATH` reaches the process under another name, and the working directory is no place for modules. Where
//! sparkray is not one of the interpreter's own packages, the program that is run finds it last.
//! See `sparkray/_private/module_path.py` for what workers get in the end.

/// Begins every program: `OWN` is what the interpreter itself finds modules in, `sys.path` where sparkray is too.
const SEARCH: &str = "\
import os, sys
OWN = [entry for entry in sys.path if entry]
sys.path[:] = OWN + [entry for name in ('SPARKRAY_PACKAGE_PATH', 'SPARKRAY_PYTHONPATH')
                     for entry in os.environ.get(name, '').split(os.pathsep if name.endswith('PYTHONPATH') else '\\0')
                     if entry]
";

/// The text of a program for `python -c` that may import sparkray.
#[must_use]
pub fn python_program(text: &str) -> String {
    format!("{SEARCH}{text}")
}

/// Hides `PYTHONPATH` from the interpreter that `command` starts. `given`: its value in the variables that the command
/// was given; else it is that of this process.
pub fn hide_python_path(command: &mut std::process::Command, given: Option<&str>) {
    let value = given.map_or_else(|| std::env::var_os("PYTHONPATH"), |value| Some(value.into()));
    command.env_remove("PYTHONPATH");
    if let Some(value) = value {
        command.env("SPARKRAY_PYTHONPATH", value);
    }
}
