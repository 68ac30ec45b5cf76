//! Driver's and executors' managers over real sockets, with a shell script in the place of `sparkrayd`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::executor::{ExecutorConfig, ExecutorManager};

const SOON: Duration = Duration::from_secs(10);

/// Answers as `sparkrayd` does, and lives until its leash is cut. `<dir>/fail-<role>` makes it fail.
const FAKE: &str = r#"#!/bin/sh
read config
if [ -e "$(dirname "$0")/fail-$1" ]; then echo "no room for the $1" >&2; exit 3; fi
node=$(echo "$config" | sed -n 's/.*"node_id":"\([0-9a-f]*\)".*/\1/p')
port=$(echo "$config" | sed -n 's/.*"port":\([0-9]*\).*/\1/p')
[ "$port" = 0 ] && port=4711
if [ "$1" = head ]; then
  echo "{\"socket_name\":\"head\",\"pid\":$$}"
else
  echo "{\"node_id\":\"$node\",\"address\":\"127.0.0.1:$port\",\"socket_name\":\"s-$node\",\"pid\":$$}"
fi
read leash
"#;

struct Spark {
    directory: tempfile::TempDir,
    driver: DriverManager,
}

impl Spark {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let binary = directory.path().join("sparkrayd");
        std::fs::write(&binary, FAKE).unwrap();
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o700)).unwrap();
        let driver = DriverManager::start(DriverConfig {
            host: "127.0.0.1".to_owned(),
            bind_address: "127.0.0.1".to_owned(),
            port: 0,
            binary,
            work_dir: directory.path().join("driver"),
            token: None,
        })
        .unwrap();
        Self { directory, driver }
    }

    fn executor(&self, id: &str) -> ExecutorManager {
        ExecutorManager::start(self.config(id)).unwrap()
    }

    fn config(&self, id: &str) -> ExecutorConfig {
        ExecutorConfig {
            invitation: self.driver.invitation().clone(),
            executor_id: id.to_owned(),
            host: "127.0.0.1".to_owned(),
            cores: 1,
            memory_budget_bytes: 0,
            in_container: false,
            java_version: "17".to_owned(),
            python: "/nowhere/python".to_owned(),
            binary: self.directory.path().join("sparkrayd"),
            work_dir: self.directory.path().join(id),
        }
    }

    fn request(expected: u32) -> InitRequest {
        InitRequest::of_nodes(expected)
    }

    fn stop(&self) -> Vec<String> {
        self.driver.end(None)
    }

    fn until(&self, what: &str, done: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + SOON;
        loop {
            let status = self.driver.status();
            if done(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{what}: {status:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn until_gone(pids: &[u32]) {
    let deadline = Instant::now() + SOON;
    while pids.iter().any(|pid| is_alive(*pid)) {
        assert!(Instant::now() < deadline, "processes are left: {pids:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_cluster_starts_stops_and_starts_again_with_other_names() {
    let spark = Spark::start();
    let executors = [spark.executor("1"), spark.executor("2")];
    let first = spark.driver.init(Spark::request(2)).unwrap();
    assert_eq!(first.nodes.len(), 2);
    let mut pids: Vec<u32> = first.nodes.iter().map(|node| node.pid).collect();
    pids.extend([first.head_pid, first.driver_node.as_ref().unwrap().pid]);
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    assert!(spark.stop().is_empty());
    until_gone(&pids);
    let second = spark.driver.init(Spark::request(2)).unwrap();
    assert_ne!(first.cluster_id, second.cluster_id);
    assert_ne!(first.token, second.token);
    drop(executors);
    spark.driver.close();
    until_gone(&second.nodes.iter().map(|node| node.pid).collect::<Vec<_>>());
}

#[test]
fn missing_executors_are_named_at_the_deadline_and_nothing_is_left() {
    let spark = Spark::start();
    let _executor = spark.executor("1");
    let impatient = InitRequest {
        deadline_seconds: 1.0,
        ..Spark::request(2)
    };
    let error = spark.driver.init(impatient).unwrap_err();
    assert_eq!(error.code(), ErrorCode::DeadlineExceeded);
    assert!(
        error
            .to_string()
            .contains("1 of 2 executors have joined (executor 1 on 127.0.0.1)"),
        "{error}"
    );
    assert_eq!(spark.driver.status().state, "idle");
    let status = spark.driver.status();
    assert!(
        status
            .nodes
            .iter()
            .all(|node| node.pid == 0 || !is_alive(node.pid))
    );
}

#[test]
fn a_head_that_cannot_start_is_an_error_with_its_log() {
    let spark = Spark::start();
    let _executor = spark.executor("1");
    std::fs::write(spark.directory.path().join("fail-head"), "").unwrap();
    let error = spark.driver.init(Spark::request(1)).unwrap_err().to_string();
    assert!(
        error.contains("executor 1 on 127.0.0.1 could not start the head") && error.contains("no room"),
        "{error}"
    );
    std::fs::remove_file(spark.directory.path().join("fail-head")).unwrap();
    spark.driver.init(Spark::request(1)).unwrap();
}

#[test]
fn a_killed_raylet_comes_back_as_a_new_node_on_its_port() {
    let spark = Spark::start();
    let _executors = [spark.executor("1"), spark.executor("2")];
    let result = spark.driver.init(Spark::request(2)).unwrap();
    let before = result.nodes[1].clone();
    kill(before.pid);
    let status = spark.until("the raylet is back", |status| status.nodes[1].start_count == 2);
    let after = &status.nodes[1];
    assert_ne!(after.node_id, before.node_id);
    assert_eq!(after.address, before.address);
    assert_eq!(status.state, "running");
}

#[test]
fn an_executor_that_joins_later_gets_a_raylet_and_one_that_left_is_forgotten() {
    let spark = Spark::start();
    let _first = spark.executor("1");
    spark.driver.init(Spark::request(1)).unwrap();
    let second = spark.executor("2");
    let status = spark.until("it joins", |status| {
        status.nodes.len() == 2 && status.nodes[1].state == "up"
    });
    let pid = status.nodes[1].pid;
    second.close();
    until_gone(&[pid]);
    spark.until("it left", |status| {
        status.nodes.len() == 1 && status.state == "running"
    });
}

#[test]
fn the_death_of_the_heads_executor_fails_the_cluster() {
    let spark = Spark::start();
    let first = spark.executor("1");
    spark.driver.init(Spark::request(1)).unwrap();
    first.close();
    let status = spark.until("the cluster has failed", |status| status.state == "failed");
    assert!(status.failure.unwrap().contains("which ran its head, is gone"));
    assert!(spark.driver.failure().is_some());
    spark.stop();
    let _other = spark.executor("2");
    spark.driver.init(Spark::request(1)).unwrap();
}

#[test]
fn a_start_can_be_cancelled_from_another_thread() {
    let spark = Arc::new(Spark::start());
    let waiting = Arc::clone(&spark);
    let thread = std::thread::spawn(move || waiting.driver.init(Spark::request(1)).unwrap_err());
    spark.until("it has begun", |status| status.state == "starting");
    assert!(spark.stop().is_empty());
    assert_eq!(thread.join().unwrap().code(), ErrorCode::Cancelled);
}

#[test]
fn a_cluster_is_stopped_only_by_its_own_id() {
    let spark = Spark::start();
    let _executor = spark.executor("1");
    let id = ClusterId::random();
    let request = InitRequest {
        cluster_id: Some(id.to_string()),
        ..Spark::request(1)
    };
    assert_eq!(
        spark.driver.init(request.clone()).unwrap().cluster_id,
        id.to_string()
    );
    assert!(spark.driver.stop_cluster(ClusterId::random()).is_empty());
    assert_eq!(spark.driver.status().state, "running");
    let error = spark.driver.init(Spark::request(1)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::AlreadyExists);
    assert_eq!(spark.driver.status().state, "running");
    assert!(spark.driver.stop_cluster(id).is_empty());
    assert_eq!(spark.driver.status().state, "idle");
}

/// Closes the connections of these numbers as soon as they come, passes all others on.
fn unreliable_way_to(address: String, closed: &'static [usize]) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let way = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for (number, caller) in listener.incoming().enumerate() {
            if closed.contains(&number) {
                continue;
            }
            let caller = caller.unwrap();
            let callee = std::net::TcpStream::connect(&address).unwrap();
            for (mut from, mut to) in [
                (caller.try_clone().unwrap(), callee.try_clone().unwrap()),
                (callee, caller),
            ] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    way
}

#[test]
fn an_executor_whose_connection_fails_tries_again() {
    let spark = Spark::start();
    let mut config = spark.config("1");
    // The first is tried with a handshake only, over the second its manager would attach.
    config.invitation.address = unreliable_way_to(config.invitation.address, &[1, 2, 3]);
    let _executor = ExecutorManager::start(config).unwrap();
    spark.until("it has joined", |status| status.nodes.len() == 1);
}

/// Passes connections to `address` on, keeps what was said on them, and gives the way.
fn recorded_way_to(address: String) -> (String, Arc<sparkray_common::sync::Mutex<Vec<u8>>>) {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    let heard = Arc::new(sparkray_common::sync::Mutex::new(Vec::new()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let way = listener.local_addr().unwrap().to_string();
    let record = Arc::clone(&heard);
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let near = near.unwrap();
            let far = TcpStream::connect(&address).unwrap();
            for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                let record = Arc::clone(&record);
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(read @ 1..) = from.read(&mut buffer) {
                        record.lock().extend_from_slice(&buffer[..read]);
                        if to.write_all(&buffer[..read]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    (way, heard)
}

#[test]
fn who_records_the_managers_connections_learns_neither_tokens_nor_settings() {
    let spark = Spark::start();
    let mut config = spark.config("1");
    let (way, heard) = recorded_way_to(config.invitation.address);
    config.invitation.address = way;
    let _executor = ExecutorManager::start(config).unwrap();
    for encryption in [true, false] {
        let mut request = Spark::request(1);
        request.encryption = encryption;
        request
            .worker_env
            .insert("PASSWORD".to_owned(), "hunter2hunter2".to_owned());
        let result = spark.driver.init(request).unwrap();
        let token = ClusterToken::from_hex(&result.token).unwrap();
        let application = ClusterToken::from_hex(spark.driver.invitation().token.as_ref().unwrap()).unwrap();
        let heard = heard.lock().clone();
        let contains = |needle: &[u8]| heard.windows(needle.len()).any(|window| window == needle);
        for secret in [
            token.expose_bytes().as_slice(),
            token.expose_hex().as_bytes(),
            application.expose_bytes().as_slice(),
            application.expose_hex().as_bytes(),
            b"hunter2hunter2",
            // A word of HTTP/2 and one of the protocol: nothing at all can be read.
            b"PRI * HTTP/2.0",
            b"sparkray.Manager",
        ] {
            assert!(
                !contains(secret),
                "encryption {encryption}: {}",
                String::from_utf8_lossy(secret)
            );
        }
        assert!(contains(b"SPARKRAY"), "the handshake was recorded");
        spark.stop();
    }
}

#[test]
fn a_caller_without_the_token_is_not_let_in() {
    let spark = Spark::start();
    let mut invitation = spark.driver.invitation().clone();
    invitation.token = Some(ClusterToken::random().expose_hex());
    let identity = invitation.identity().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let endpoint = sparkray_rpc::Endpoint::Tcp(invitation.address);
    let dial = sparkray_rpc::dial(&identity, &endpoint, sparkray_rpc::Target::Manager, SOON);
    let error = runtime.block_on(dial).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unauthenticated);
    assert!(spark.driver.status().nodes.is_empty());
}

#[test]
fn a_token_that_executors_know_is_not_in_the_invitation() {
    let directory = tempfile::tempdir().unwrap();
    let token = ClusterToken::random();
    let driver = DriverManager::start(DriverConfig {
        host: "127.0.0.1".to_owned(),
        bind_address: "127.0.0.1".to_owned(),
        port: 0,
        binary: directory.path().join("sparkrayd"),
        work_dir: directory.path().join("driver"),
        token: Some(token.expose_hex()),
    })
    .unwrap();
    let told = bridge::encode(&bridge::Invitation::from(driver.invitation()));
    let message = bridge::ExecutorConfig {
        invitation: Some(bridge::decode(&told).unwrap()),
        token: Some(token.expose_hex()),
        ..bridge::ExecutorConfig::default()
    };
    let contains = |needle: &[u8]| told.windows(needle.len()).any(|window| window == needle);
    assert!(!contains(token.expose_hex().as_bytes()));
    assert_eq!(driver.invitation().token, None);
    let config = ExecutorConfig::try_from(message).unwrap();
    assert_eq!(config.invitation.identity().unwrap().token, token);
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let message = bridge::DriverConfig {
        port: 65_536,
        ..bridge::DriverConfig::default()
    };
    let error = DriverConfig::try_from(message).unwrap_err();
    assert_eq!(error.to_string(), "the manager's port cannot be 65536");
    let error = ExecutorConfig::try_from(bridge::ExecutorConfig::default()).unwrap_err();
    assert_eq!(error.to_string(), "message lacks invitation");
}
