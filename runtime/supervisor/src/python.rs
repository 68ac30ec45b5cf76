//! The Python of a node's workers: found, and asked for its version.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sparkray_common::{ErrorCode, hide_python_path, python_program};

use crate::SupervisorError;
use crate::child_host::isolate;

const DEADLINE: Duration = Duration::from_secs(20);
/// Prints version, whether sparkray is there, and its version when it was installed by pip.
const QUESTION: &str = "\
import importlib.util
installed = ''
try:
    import importlib.metadata
    installed = importlib.metadata.version('sparkray')
except Exception:
    pass
print('sparkray-probe', sys.version.split()[0], int(importlib.util.find_spec('sparkray') is not None), installed)
";

/// What a Python said about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PythonAnswer {
    /// For example "3.11.7".
    pub(crate) version: String,
    /// Whether `import sparkray` would find it.
    pub(crate) has_sparkray: bool,
    /// Its version when pip knows it.
    pub(crate) sparkray_version: String,
}

/// An interpreter's absolute path. Links are kept: a venv is recognised by the link.
pub(crate) fn absolute(python: &str, working_dir: &Path, search_path: &str) -> PathBuf {
    if python.contains('/') {
        return working_dir.join(python);
    }
    let candidates =
        std::env::split_paths(search_path).map(|directory| working_dir.join(directory).join(python));
    candidates
        .into_iter()
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| PathBuf::from(python))
}

/// Runs the interpreter once. Blocks for up to 20 s.
pub(crate) fn ask(python: &Path, environment: &BTreeMap<String, String>) -> Result<PythonAnswer, String> {
    let cannot =
        |cause: &dyn std::fmt::Display| format!("Python {} cannot be run: {cause}", python.display());
    let mut command = Command::new(python);
    command.args(["-c", &python_program(QUESTION)]).envs(environment);
    hide_python_path(&mut command, environment.get("PYTHONPATH").map(String::as_str));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    isolate(&mut command);
    let mut process = command.spawn().map_err(|error| cannot(&error))?;
    let output = read_until_closed(&mut process, Instant::now() + DEADLINE);
    // It has closed its output or is late: in both cases it is not needed any more.
    let _ = process.kill();
    let _ = process.wait();
    let output = output.map_err(|error| cannot(&error))?;
    parse(&output).ok_or_else(|| match output.trim_end().lines().last() {
        Some(last) => cannot(&last),
        None => cannot(&"it wrote nothing"),
    })
}

/// Standard output and error together, until both are closed.
fn read_until_closed(process: &mut std::process::Child, deadline: Instant) -> std::io::Result<String> {
    let mut text = Vec::new();
    let mut streams: Vec<std::fs::File> = Vec::new();
    streams.extend(
        process
            .stdout
            .take()
            .map(|stream| std::os::fd::OwnedFd::from(stream).into()),
    );
    streams.extend(
        process
            .stderr
            .take()
            .map(|stream| std::os::fd::OwnedFd::from(stream).into()),
    );
    while !streams.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(std::io::Error::other)?;
        let mut waited: Vec<PollFd<'_>> = streams
            .iter()
            .map(|stream| PollFd::new(stream, PollFlags::IN))
            .collect();
        if left.is_zero() || poll(&mut waited, Some(&timeout))? == 0 {
            return Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                format!("no answer within {} s", DEADLINE.as_secs()),
            ));
        }
        let ready: Vec<bool> = waited.iter().map(|entry| !entry.revents().is_empty()).collect();
        let mut open = Vec::new();
        for (mut stream, ready) in streams.into_iter().zip(ready) {
            let mut buffer = [0; 4096];
            let count = if ready {
                stream.read(&mut buffer)?
            } else {
                buffer.len()
            };
            if ready {
                text.extend_from_slice(&buffer[..count]);
            }
            if count > 0 {
                open.push(stream);
            }
        }
        streams = open;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn parse(output: &str) -> Option<PythonAnswer> {
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("sparkray-probe "))?;
    let mut words = line.split(' ');
    Some(PythonAnswer {
        version: words.next()?.to_owned(),
        has_sparkray: words.next()? == "1",
        sparkray_version: words.next().unwrap_or("").to_owned(),
    })
}

/// Refuses a Python that cannot run the driver's functions.
pub(crate) fn compare(
    answer: &PythonAnswer,
    python: &Path,
    driver_python: &str,
    driver_sparkray: &str,
) -> Result<(), SupervisorError> {
    let refuse = |message: String| Err(SupervisorError::refused(ErrorCode::VersionMismatch, message));
    if minor(&answer.version) != minor(driver_python) {
        return refuse(format!(
            "its Python {} is {}, the driver's is {driver_python}: ship the driver's environment (penv_archive or \
             conda_name) or set PYSPARK_PYTHON to the same version",
            python.display(),
            answer.version
        ));
    }
    if !answer.has_sparkray {
        return refuse(format!(
            "its Python {} has no sparkray: install the same wheel there, or ship the driver's environment (penv_archive, \
             conda_name, or --archives env.tar.gz#environment with PYSPARK_PYTHON=./environment/bin/python)",
            python.display()
        ));
    }
    if !answer.sparkray_version.is_empty() && answer.sparkray_version != driver_sparkray {
        return refuse(format!(
            "its Python {} has sparkray {}, the driver's is {driver_sparkray}: install the same version in both",
            python.display(),
            answer.sparkray_version
        ));
    }
    Ok(())
}

/// "3.11" of "3.11.7": what pickles and compiled modules depend on.
fn minor(version: &str) -> String {
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_relative_interpreter_is_in_the_container_and_its_link_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let bin = directory.path().join("python_env/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::os::unix::fs::symlink("/bin/sh", bin.join("python")).unwrap();
        let found = absolute("python_env/bin/python", directory.path(), "");
        assert_eq!(found, bin.join("python"));
        assert_eq!(
            absolute("/opt/python", directory.path(), ""),
            Path::new("/opt/python")
        );
        let search_path = bin.display().to_string();
        assert_eq!(
            absolute("python", directory.path(), &search_path),
            bin.join("python")
        );
    }

    #[test]
    fn an_interpreter_that_fails_is_an_error_with_its_last_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("python");
        std::fs::write(&path, "#!/bin/sh\necho no libpython >&2\nexit 127\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        let error = ask(&path, &BTreeMap::new()).unwrap_err();
        assert!(error.contains("no libpython"), "{error}");
        let error = ask(&directory.path().join("missing"), &BTreeMap::new()).unwrap_err();
        assert!(error.contains("missing"), "{error}");
    }

    #[test]
    fn versions_are_compared_up_to_the_minor_one() {
        let answer = |version: &str, has_sparkray, sparkray: &str| PythonAnswer {
            version: version.to_owned(),
            has_sparkray,
            sparkray_version: sparkray.to_owned(),
        };
        let path = Path::new("/env/bin/python");
        assert!(compare(&answer("3.11.2", true, "0.1.0"), path, "3.11.7", "0.1.0").is_ok());
        assert!(compare(&answer("3.11.2", true, ""), path, "3.11.7", "0.1.0").is_ok());
        let error = compare(&answer("3.10.12", true, "0.1.0"), path, "3.11.7", "0.1.0")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("3.10.12") && error.contains("3.11.7") && error.contains("/env/bin/python"),
            "{error}"
        );
        assert!(compare(&answer("3.11.2", false, ""), path, "3.11.7", "0.1.0").is_err());
        assert!(compare(&answer("3.11.2", true, "0.0.9"), path, "3.11.7", "0.1.0").is_err());
    }
}
