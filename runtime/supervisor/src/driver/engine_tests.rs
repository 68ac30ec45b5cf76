//! The managers with another runtime than the native one: shell scripts that speak no JSON, and an engine that knows
//! them. What they mean is the engine's to say.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use sparkray_common::NodeId;
use sparkray_proto::bridge::ClusterNode;

use super::*;
use crate::child_host::Launch;
use crate::engine::{HeadPlace, HeadPlan, NodeExit, NodePlan, Role, ServingHead, ServingNode};
use crate::executor::{ExecutorConfig, ExecutorManager};

const SOON: Duration = Duration::from_secs(10);
/// Less than the managers wait for each other, and than the native runtime gets.
const GRACE: Duration = Duration::from_millis(200);
const CUT_OFF: i32 = 41;
const BROKEN: i32 = 42;

/// `scripted start head|node`: keeps what it was told in `<dir>/told-<pid>`, and what it hears in `<dir>/heard-<pid>`.
/// SIGUSR1 and SIGUSR2 end it with a status. `<dir>/stubborn` keeps it from ending when it is told to.
const SCRIPT: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
read -r line
echo "$RUNTIME $* $line" >told-$$
set -- "$2" $line
trap 'exit 41' USR1
trap 'exit 42' USR2
if [ -e stubborn ]; then trap '' TERM; fi
# A shell gives its jobs in the background no other way to its own input.
exec 3<&0
cat <&3 >heard-$$ &
if [ "$1" = head ]; then
  echo "Runtime started: head at head-$$ pid $$"
else
  mkdir "left-$2"
  address=$4
  if [ "$address" = - ]; then address=here:$$; fi
  echo "Runtime started: node $2 at $address pid $$"
fi
wait $!
while [ -e stubborn ]; do sleep 0.05; done
"#;

struct Scripted {
    directory: PathBuf,
}

impl Scripted {
    fn launch(&self, role: &str, configuration: String) -> Launch {
        Launch {
            program: self.directory.join("scripted"),
            arguments: vec!["start".to_owned(), role.to_owned()],
            environment: [("RUNTIME".to_owned(), "scripted".to_owned())].into(),
            configuration,
            ready_deadline: SOON,
        }
    }
}

/// The words of a ready line after "Runtime started: ROLE".
fn words<'line>(ready_line: &'line str, role: &str) -> Result<Vec<&'line str>, String> {
    let line = ready_line.strip_prefix("Runtime started: ").unwrap_or(ready_line);
    line.strip_prefix(role)
        .map(|rest| rest.split_whitespace().collect())
        .ok_or_else(|| format!("it is no {role}"))
}

fn number(word: &str) -> Result<u32, String> {
    word.parse().map_err(|_| format!("{word} is no pid"))
}

impl Engine for Scripted {
    fn launch_head(&self, _plan: &HeadPlan) -> Result<Launch, SupervisorError> {
        Ok(self.launch("head", "one line".to_owned()))
    }

    fn launch_node(&self, plan: &NodePlan) -> Result<Launch, SupervisorError> {
        let head = match &plan.head {
            HeadPlace::Here(address) => format!("here={address}"),
            HeadPlace::Beyond(address) => format!("beyond={address}"),
        };
        let former = plan.former_address.as_deref().unwrap_or("-");
        Ok(self.launch("node", format!("{} {head} {former}", plan.node_id)))
    }

    fn read_head(&self, ready_line: &str) -> Result<ServingHead, String> {
        match words(ready_line, "head")?[..] {
            ["at", address, "pid", pid] => Ok(ServingHead {
                address: address.to_owned(),
                pid: number(pid)?,
            }),
            _ => Err("it has other words".to_owned()),
        }
    }

    fn read_node(&self, ready_line: &str) -> Result<ServingNode, String> {
        match words(ready_line, "node")?[..] {
            [id, "at", address, "pid", pid] => Ok(ServingNode {
                node_id: NodeId::from_hex(id).map_err(|error| error.to_string())?,
                address: address.to_owned(),
                socket_name: format!("socket-of-{pid}"),
                pid: number(pid)?,
            }),
            _ => Err("it has other words".to_owned()),
        }
    }

    fn stop_grace(&self, _role: Role) -> Duration {
        GRACE
    }

    fn node_exit(&self, status: Option<i32>) -> NodeExit {
        match status {
            Some(CUT_OFF) => NodeExit::CutOff,
            Some(BROKEN) => NodeExit::Broken,
            _ => NodeExit::Died,
        }
    }

    fn head_lost_notice(&self, cause: &str) -> String {
        format!("lost: {}", cause.lines().next().unwrap_or_default())
    }

    fn leftovers(&self, plan: &NodePlan) -> Vec<PathBuf> {
        vec![self.directory.join(format!("left-{}", plan.node_id))]
    }
}

struct Spark {
    directory: tempfile::TempDir,
    driver: DriverManager,
    executors: Vec<ExecutorManager>,
}

impl Spark {
    /// A driver with this many executors.
    fn start(executors: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("scripted");
        std::fs::write(&program, SCRIPT).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let engine = Arc::new(Scripted {
            directory: directory.path().to_owned(),
        });
        let config = DriverConfig {
            host: "127.0.0.1".to_owned(),
            bind_address: "127.0.0.1".to_owned(),
            port: 0,
            binary: PathBuf::from("/nowhere/sparkrayd"),
            work_dir: directory.path().join("driver"),
            token: None,
        };
        let driver = DriverManager::start_with(config, Arc::<Scripted>::clone(&engine)).unwrap();
        let executors = (0..executors)
            .map(|number| {
                let config = ExecutorConfig {
                    invitation: driver.invitation().clone(),
                    executor_id: number.to_string(),
                    host: "127.0.0.1".to_owned(),
                    cores: 1,
                    memory_budget_bytes: 0,
                    in_container: false,
                    java_version: "17".to_owned(),
                    python: "/nowhere/python".to_owned(),
                    binary: PathBuf::from("/nowhere/sparkrayd"),
                    work_dir: directory.path().join(number.to_string()),
                };
                ExecutorManager::start_with(config, Arc::<Scripted>::clone(&engine)).unwrap()
            })
            .collect();
        Self {
            directory,
            driver,
            executors,
        }
    }

    fn init(&self) -> InitResult {
        let request = InitRequest::of_nodes(self.executors.len() as u32);
        self.driver.init(request).unwrap()
    }

    fn read(&self, what: &str, pid: u32) -> String {
        std::fs::read_to_string(self.directory.path().join(format!("{what}-{pid}"))).unwrap()
    }

    fn leftovers(&self) -> usize {
        let names = std::fs::read_dir(self.directory.path()).unwrap();
        names
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().starts_with("left-")
            })
            .count()
    }

    /// The only executor's node, once it is as it should be.
    fn node_until(&self, what: &str, done: impl Fn(&ClusterNode) -> bool) -> ClusterNode {
        let mut found = None;
        until(what, || {
            let node = self.driver.status().nodes[0].clone();
            let is_done = done(&node);
            found = Some(node);
            is_done
        });
        found.unwrap()
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn what_a_runtime_is_told_and_says_is_its_engines() {
    let spark = Spark::start(2);
    let cluster = spark.init();
    assert_eq!(
        spark.read("told", cluster.head_pid),
        "scripted start head one line\n"
    );
    let beside = cluster
        .nodes
        .iter()
        .find(|node| node.executor_id == cluster.head_executor_id)
        .unwrap();
    assert_eq!(beside.address, format!("here:{}", beside.pid));
    assert_eq!(beside.socket_name, format!("socket-of-{}", beside.pid));
    let others = cluster.nodes.iter().chain(&cluster.driver_node);
    for node in others {
        let head = if node.pid == beside.pid {
            format!("here=head-{}", cluster.head_pid)
        } else {
            format!("beyond={}", beside.address)
        };
        let told = format!("scripted start node {} {head} -\n", node.node_id);
        assert_eq!(spark.read("told", node.pid), told);
    }
    assert_eq!(spark.leftovers(), 3);
    send(cluster.head_pid, Signal::KILL);
    for pid in [beside.pid, cluster.driver_node.as_ref().unwrap().pid] {
        until("a node hears that the head is lost", || {
            spark.read("heard", pid).starts_with("lost: ")
        });
    }
    assert!(spark.driver.end(None).is_empty());
    until("what nodes left is removed", || spark.leftovers() == 0);
}

#[test]
fn what_the_end_of_a_node_means_is_its_engines() {
    let spark = Spark::start(1);
    let first = spark.init().nodes[0].clone();
    let mut node = first.clone();
    // More often than a node may die.
    for start in 2..9 {
        send(node.pid, Signal::USR1);
        node = spark.node_until("it was cut off and is back", |node| node.start_count == start);
        assert_eq!(node.address, first.address, "it takes the former address");
    }
    send(node.pid, Signal::KILL);
    node = spark.node_until("it died and is back", |node| node.start_count == 9);
    send(node.pid, Signal::USR2);
    node = spark.node_until("it is given up", |node| node.state == "down");
    assert!(node.message.contains("exited with status 42"), "{}", node.message);
}

#[test]
fn how_long_a_process_may_take_to_end_is_its_engines() {
    let spark = Spark::start(1);
    std::fs::write(spark.directory.path().join("stubborn"), "").unwrap();
    let cluster = spark.init();
    let began = Instant::now();
    let unanswered = spark.driver.end(None);
    assert!(
        unanswered.is_empty(),
        "the managers wait for longer: {unanswered:?}"
    );
    assert!(began.elapsed() >= GRACE);
    for pid in [
        cluster.head_pid,
        cluster.nodes[0].pid,
        cluster.driver_node.unwrap().pid,
    ] {
        assert!(!is_alive(pid));
    }
}
