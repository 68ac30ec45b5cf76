use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::channel;

use super::*;

const SOON: Duration = Duration::from_secs(10);

/// A shell script that stands for `sparkrayd`.
fn script(directory: &Path, body: &str) -> PathBuf {
    let path = directory.join("fake");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

fn spec(directory: &Path, body: &str) -> ChildSpec {
    ChildSpec {
        role: "raylet".to_owned(),
        launch: Launch {
            program: script(directory, body),
            arguments: vec!["first".to_owned(), "second".to_owned()],
            environment: BTreeMap::from([("LIGHT".to_owned(), "green".to_owned())]),
            configuration: "{\"token\":\"secret\"}".to_owned(),
            ready_deadline: SOON,
        },
        log_path: directory.join("logs").join("raylet.log"),
        on_exit: None,
    }
}

/// A process that is gone or a zombie cannot be asked for its memory map.
fn is_alive(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/environ")).is_ok()
}

#[test]
fn a_child_gets_arguments_environment_and_configuration_and_answers_with_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let host = ChildHost::start().unwrap();
    let child = host
        .spawn(spec(
            directory.path(),
            "read line; echo \"ready $1 $2 $LIGHT $line\"; read rest",
        ))
        .unwrap();
    assert_eq!(
        child.ready_line(),
        "ready first second green {\"token\":\"secret\"}"
    );
    let pid = child.pid();
    assert!(is_alive(pid));
    child.stop(SOON);
    assert!(!is_alive(pid));
}

#[test]
fn a_child_inherits_no_descriptor_but_its_streams_and_no_blocked_signal() {
    let directory = tempfile::tempdir().unwrap();
    let leaked = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let host = ChildHost::start().unwrap();
    let body = "read line; echo $(ls /proc/self/fd | wc -w) $(grep SigBlk /proc/self/status); read rest";
    let child = host.spawn(spec(directory.path(), body)).unwrap();
    // `ls` itself holds 0, 1, 2 and the directory.
    assert_eq!(child.ready_line(), "4 SigBlk: 0000000000000000");
    child.stop(SOON);
}

#[test]
fn a_child_that_fails_at_start_is_an_error_with_the_end_of_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let host = ChildHost::start().unwrap();
    let Err(error) = host.spawn(spec(directory.path(), "echo no room >&2; exit 3")) else {
        panic!("a child that exits must be an error");
    };
    let text = error.to_string();
    assert!(
        text.contains("exited with status 3") && text.contains("no room"),
        "{text}"
    );
}

#[test]
fn a_silent_child_is_killed_at_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let host = ChildHost::start().unwrap();
    let mut silent = spec(directory.path(), "echo $$ >pid; exec sleep 1000");
    silent.launch.ready_deadline = Duration::from_millis(200);
    let pid_file = directory.path().join("pid");
    silent.launch.program = script(
        directory.path(),
        &format!("echo $$ >{}; exec sleep 1000", pid_file.display()),
    );
    let Err(error) = host.spawn(silent) else {
        panic!("a silent child must be an error");
    };
    assert!(error.to_string().contains("no answer within 0.2 s"), "{error}");
    let pid: u32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    let deadline = Instant::now() + SOON;
    while is_alive(pid) {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
}

#[test]
fn the_end_of_a_ready_child_is_reported_once_with_its_cause() {
    let directory = tempfile::tempdir().unwrap();
    let host = ChildHost::start().unwrap();
    let (sender, ended) = channel();
    let mut dying = spec(
        directory.path(),
        "echo ready; echo going down >&2; read line; kill -9 $$",
    );
    dying.on_exit = Some(Box::new(move |end| sender.send(end.cause).unwrap()));
    let child = host.spawn(dying).unwrap();
    let cause = ended.recv_timeout(SOON).unwrap();
    assert!(
        cause.contains("killed by SIGKILL") && cause.contains("going down"),
        "{cause}"
    );
    assert!(child.exit().is_some());
    assert!(
        ended.recv_timeout(SOON).is_err(),
        "the callback is gone after its only call"
    );
}

#[test]
fn a_stubborn_child_is_killed_after_the_grace() {
    let directory = tempfile::tempdir().unwrap();
    let host = ChildHost::start().unwrap();
    let child = host
        .spawn(spec(
            directory.path(),
            "trap '' TERM; echo ready; while true; do sleep 0.05; done",
        ))
        .unwrap();
    let pid = child.pid();
    child.stop(Duration::from_millis(100));
    assert!(!is_alive(pid));
}

#[test]
fn a_binary_that_cannot_be_run_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let host = ChildHost::start().unwrap();
    let mut missing = spec(directory.path(), "");
    missing.launch.program = directory.path().join("nothing");
    let Err(error) = host.spawn(missing) else {
        panic!("a missing binary must be an error");
    };
    assert!(error.to_string().contains("nothing"), "{error}");
}

#[test]
fn children_end_with_their_host() {
    let directory = tempfile::tempdir().unwrap();
    let host = ChildHost::start().unwrap();
    let child = host
        .spawn(spec(directory.path(), "echo ready; exec sleep 1000"))
        .unwrap();
    let pid = child.pid();
    drop(host);
    drop(child);
    let deadline = Instant::now() + SOON;
    while is_alive(pid) {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
}
