//! The built binary as a child: configuration, ready line, leash, signals, death with its parent.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use sparkray_common::{
    ClusterId, ClusterToken, HeadConfig, HeadReady, NodeId, RayletConfig, RayletReady, VERSION,
};

const DEADLINE: Duration = Duration::from_secs(10);

fn sparkrayd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sparkrayd"));
    command.args(arguments).env_remove("SPARKRAY_LOG");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn head_config(parent_pid: u32) -> HeadConfig {
    HeadConfig {
        cluster_id: ClusterId::random().to_string(),
        token: ClusterToken::random().expose_hex(),
        head_epoch: 1,
        parent_pid,
        log_dir: String::new(),
    }
}

/// A head that is ready.
struct Head {
    child: Child,
    leash: Option<ChildStdin>,
    ready: HeadReady,
    config: HeadConfig,
}

/// Starts a process and hands it its configuration; the line that it answers with.
fn start(role: &str, config: &impl Serialize) -> (Child, ChildStdin, String) {
    let mut child = sparkrayd(&[role]).spawn().unwrap();
    let mut leash = child.stdin.take().unwrap();
    writeln!(leash, "{}", serde_json::to_string(config).unwrap()).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    (child, leash, line)
}

fn start_head() -> Head {
    let config = head_config(std::process::id());
    let (child, leash, line) = start("head", &config);
    let ready: HeadReady = serde_json::from_str(&line).expect("one line of JSON");
    assert_eq!(ready.pid, child.id());
    Head {
        child,
        leash: Some(leash),
        ready,
        config,
    }
}

/// Waits for the end; kills what does not end in time.
fn wait(child: &mut Child) -> ExitStatus {
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    panic!("the process did not end within {DEADLINE:?}");
}

fn stderr(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed()).unwrap()
}

/// Whether somebody listens on an abstract Unix socket.
fn listens(name: &str) -> bool {
    std::fs::read_to_string("/proc/net/unix")
        .unwrap()
        .lines()
        .any(|line| line.ends_with(&format!("@{name}")))
}

#[test]
fn closing_the_leash_ends_the_head_in_an_orderly_way() {
    let mut head = start_head();
    assert!(listens(&head.ready.socket_name));
    head.leash = None;
    assert_eq!(wait(&mut head.child).code(), Some(0));
    assert!(!listens(&head.ready.socket_name));
    let log = stderr(&mut head.child);
    assert!(
        log.contains("head is ready") && log.contains("standard input"),
        "{log}"
    );
    assert!(
        !log.contains(&head.config.token) && !log.contains(" WARN ") && !log.contains(" ERROR "),
        "{log}"
    );
}

#[test]
fn sigterm_ends_it_and_ctrl_c_does_not() {
    let mut head = start_head();
    kill_process(pid(&head.child), Signal::INT).unwrap();
    kill_process(pid(&head.child), Signal::TERM).unwrap();
    assert_eq!(wait(&mut head.child).code(), Some(0));
    assert!(stderr(&mut head.child).contains("SIGTERM"));
}

#[test]
fn it_dies_with_the_thread_that_started_it() {
    let mut head = std::thread::spawn(start_head).join().unwrap();
    // The leash is still held: only the kernel ends it.
    assert_eq!(wait(&mut head.child).signal(), Some(Signal::KILL.as_raw()));
}

#[test]
fn descriptors_of_the_parent_are_not_kept() {
    // Without close-on-exec, as a careless parent makes them.
    let (read, write): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
    let mut head = start_head();
    drop(write);
    let mut read = File::from(read);
    assert_eq!(
        read.read(&mut [0; 1]).unwrap(),
        0,
        "the head holds the pipe's other end"
    );
    assert!(head.child.try_wait().unwrap().is_none());
    head.leash = None;
    assert_eq!(wait(&mut head.child).code(), Some(0));
}

#[test]
fn bad_configurations_are_refused_with_one_sentence() {
    let valid = serde_json::to_string(&head_config(std::process::id())).unwrap();
    let stranger = serde_json::to_string(&head_config(1)).unwrap();
    let broken_id = valid.replace("\"cluster_id\":\"", "\"cluster_id\":\"zz");
    let cases = [
        (String::new(), "closed before the configuration's end"),
        ("{".to_owned(), "closed before the configuration's end"),
        ("{}\n".to_owned(), "cannot be used: missing field"),
        (
            valid.replacen('{', "{\"colour\":1,", 1) + "\n",
            "unknown field `colour`",
        ),
        (stranger + "\n", "its configuration names 1"),
        (broken_id + "\n", "no usable cluster_id"),
        ("x".repeat(2 << 20), "longer than 1 MiB"),
    ];
    for (input, expected) in cases {
        let mut child = sparkrayd(&["head"]).spawn().unwrap();
        // A child that has seen enough closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let status = wait(&mut child);
        let log = stderr(&mut child);
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains(expected), "{expected}: {log}");
        let mut output = String::new();
        child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        assert_eq!(output, "", "nothing but a ready line goes to standard output");
    }
}

#[test]
fn a_head_whose_place_is_taken_says_so() {
    let mut first = start_head();
    let (mut second, _leash, line) = start("head", &first.config);
    assert_eq!(line, "");
    assert_eq!(wait(&mut second).code(), Some(1));
    assert!(stderr(&mut second).contains("cannot listen on the abstract socket"));
    first.leash = None;
    assert_eq!(wait(&mut first.child).code(), Some(0));
}

#[test]
fn a_raylet_joins_the_head_and_ends_with_its_leash_even_when_the_head_is_gone() {
    let mut head = start_head();
    let directory = std::env::temp_dir().to_string_lossy().into_owned();
    let config = RayletConfig {
        cluster_id: head.config.cluster_id.clone(),
        token: head.config.token.clone(),
        node_id: NodeId::random().to_string(),
        head_epoch: head.config.head_epoch,
        parent_pid: std::process::id(),
        host: "127.0.0.1".to_owned(),
        port: 0,
        head_socket_name: Some(head.ready.socket_name.clone()),
        head_address: None,
        resources: BTreeMap::from([("CPU".to_owned(), 1.0)]),
        labels: BTreeMap::new(),
        object_store_bytes: 16 << 20,
        spill_dirs: Vec::new(),
        log_dir: directory.clone(),
        python: None,
        working_dir: directory,
        worker_env: BTreeMap::new(),
        prestart_workers: 0,
        is_drivers_own: false,
        bind_host: None,
        encryption: true,
    };
    let (mut raylet, leash, line) = start("raylet", &config);
    let ready: RayletReady = serde_json::from_str(&line).expect("one line of JSON");
    assert_eq!(ready.node_id, config.node_id);
    let status = std::fs::read_to_string(format!("/proc/{}/status", ready.pid)).unwrap();
    assert!(
        status.contains(&format!("PPid:\t{}\n", raylet.id())),
        "a raylet is the child of its guardian"
    );

    head.child.kill().unwrap();
    wait(&mut head.child);
    drop(leash);
    assert_eq!(wait(&mut raylet).code(), Some(0));
    assert!(!listens(&ready.socket_name));
}

#[test]
fn version_and_help_are_told_without_a_configuration() {
    let output = sparkrayd(&["--version"]).output().unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("sparkrayd {VERSION}\n")
    );
    let output = sparkrayd(&["--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(
        help.contains("head") && help.contains("raylet") && help.contains("standard input"),
        "{help}"
    );
}
