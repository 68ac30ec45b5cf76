//! A cluster in a process of its own, and a driver made of bare frames.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sparkray_common::{
    ClusterId, ClusterToken, HeadConfig, JobId, LeaseId, NodeId, ObjectId, RayletConfig, RayletReady,
    ResourceSet, TaskId, VERSION, WorkerAddress, WorkerId,
};
use sparkray_proto::{
    ClientKind, CreateObject, CreateObjectReply, FrameKind, HeadReply, HeadRequest, ObjectRange,
    RegisterClient, RegisterClientReply, RegisterJob, RequestWorkerLease, RequestWorkerLeaseReply,
    ReturnWorkerLease, head_reply, head_request,
};
use sparkray_rpc::{Endpoint, Frame, FrameReceiver, FrameSender, Identity, Target, dial, frame_connection};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Where Python finds the stand-in zygote.
pub(crate) const STAND_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stand_in");

/// Runs a test in a process of its own, because a raylet reaps, and finally kills, all children of its process. `name`: the
/// test's, with its module.
pub(crate) fn alone(name: &str, test: impl Future<Output = ()>) {
    const MARK: &str = "SPARKRAY_TEST_ALONE";
    if std::env::var_os(MARK).is_some_and(|marked| marked == name) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        return runtime.enable_all().build().unwrap().block_on(test);
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture"]).env(MARK, name);
    let output = command.output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(
        stdout.contains("1 passed"),
        "no test has the name {name}:\n{stdout}"
    );
}

pub(crate) fn is_alive(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// The pids of this process's children.
pub(crate) fn children() -> Vec<String> {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let of_thread =
        |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("children")).unwrap();
    threads
        .flat_map(|thread| {
            let children = of_thread(thread.unwrap());
            children.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

pub(crate) struct Node {
    pub(crate) ready: RayletReady,
    pub(crate) id: NodeId,
    pub(crate) cancel: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl Node {
    /// Ends it, with all that it has started.
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }
}

pub(crate) struct Cluster {
    pub(crate) identity: Identity,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) head_socket: String,
    /// Ends the head.
    pub(crate) head: CancellationToken,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let identity = Identity {
            cluster_id: ClusterId::random(),
            token: ClusterToken::random(),
            head_epoch: 1,
        };
        let directory = tempfile::tempdir().unwrap();
        let config = HeadConfig {
            cluster_id: identity.cluster_id.to_string(),
            token: identity.token.expose_hex(),
            head_epoch: 1,
            parent_pid: std::process::id(),
            log_dir: path(directory.path()),
        };
        let (sender, ready) = oneshot::channel();
        let head = CancellationToken::new();
        let end = head.clone();
        tokio::spawn(async move {
            let announce = |ready| sender.send(ready).unwrap();
            sparkray_gcs::run(config, announce, end).await.unwrap();
        });
        let head_socket = ready.await.unwrap().socket_name;
        Self {
            identity,
            directory,
            head_socket,
            head,
        }
    }

    pub(crate) async fn raylet(&self, cpus: f64, modules: Option<&str>, head_address: Option<&str>) -> Node {
        let id = NodeId::random();
        let environment = modules.map(|path| [("PYTHONPATH", path), ("STAND_IN_VERSION", VERSION)]);
        let config = RayletConfig {
            cluster_id: self.identity.cluster_id.to_string(),
            token: self.identity.token.expose_hex(),
            node_id: id.to_string(),
            head_epoch: 1,
            parent_pid: std::process::id(),
            host: "127.0.0.1".to_owned(),
            port: 0,
            head_socket_name: head_address.is_none().then(|| self.head_socket.clone()),
            head_address: head_address.map(str::to_owned),
            resources: BTreeMap::from([("CPU".to_owned(), cpus)]),
            labels: BTreeMap::new(),
            object_store_bytes: 64 << 20,
            spill_dirs: vec![path(&self.directory.path().join(format!("spill-{id}")))],
            log_dir: path(self.directory.path()),
            python: modules.map(|_| "python3".to_owned()),
            working_dir: path(self.directory.path()),
            worker_env: environment
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            prestart_workers: u32::from(modules.is_some()),
            is_drivers_own: false,
            bind_host: None,
            encryption: true,
        };
        let (sender, ready) = oneshot::channel();
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let task = tokio::spawn(async move {
            let (_parent, notices) = mpsc::channel(1);
            sparkray_raylet::run(config, |ready| sender.send(ready).unwrap(), notices, stop)
                .await
                .unwrap();
        });
        Node {
            ready: ready.await.unwrap(),
            id,
            cancel,
            task,
        }
    }
}

pub(crate) fn path(path: &Path) -> String {
    path.display().to_string()
}

pub(crate) fn cpus(amount: f64) -> ResourceSet {
    ResourceSet::from_units([("CPU".to_owned(), amount)]).unwrap()
}

/// A driver, as a test sees it.
pub(crate) struct Driver {
    pub(crate) sender: FrameSender,
    pub(crate) receiver: FrameReceiver,
    pub(crate) worker_id: WorkerId,
    /// Made up until it is registered.
    pub(crate) job: JobId,
    pub(crate) correlation: u64,
    pub(crate) seen: Vec<Frame>,
}

impl Driver {
    /// Registers its job with the head.
    pub(crate) async fn register_job(&mut self, node: &Node) {
        let driver = WorkerAddress {
            node_id: node.id,
            worker_id: self.worker_id,
            node_address: node.ready.address.clone(),
        };
        let register = RegisterJob {
            driver: Some((&driver).into()),
            namespace: "test".to_owned(),
            python_version: "3.11".to_owned(),
        };
        let reply = self.ask_head(head_request::Request::RegisterJob(register)).await;
        let Some(head_reply::Reply::Job(begun)) = reply.reply else {
            panic!("the head gave no job but {reply:?}");
        };
        self.job = JobId::from_slice(&begun.job_id).unwrap();
    }

    /// A connection past the handshake that has not said yet who it is.
    pub(crate) async fn dial(cluster: &Cluster, node: &Node) -> Self {
        let endpoint = Endpoint::Abstract(node.ready.socket_name.clone());
        Self::dial_at(cluster, node, endpoint).await
    }

    async fn dial_at(cluster: &Cluster, node: &Node, endpoint: Endpoint) -> Self {
        let socket = dial(&cluster.identity, &endpoint, Target::Raylet(node.id), PATIENCE)
            .await
            .unwrap();
        let (sender, receiver) = frame_connection(socket).unwrap();
        Self {
            sender,
            receiver,
            worker_id: WorkerId::random(),
            job: JobId::random(),
            correlation: 0,
            seen: Vec::new(),
        }
    }

    /// A connection to the raylet of another node.
    pub(crate) async fn dial_remote(cluster: &Cluster, node: &Node) -> Self {
        Self::dial_at(cluster, node, Endpoint::Tcp(node.ready.address.clone())).await
    }

    /// A registered driver.
    pub(crate) async fn connect(cluster: &Cluster, node: &Node) -> Self {
        let mut driver = Self::dial(cluster, node).await;
        let reply = driver.register(VERSION).await;
        assert_eq!(reply.failure, None);
        assert_eq!(reply.node_address, node.ready.address);
        driver
    }

    pub(crate) async fn register(&mut self, version: &str) -> RegisterClientReply {
        let register = RegisterClient {
            worker_id: self.worker_id.to_vec().into(),
            kind: ClientKind::Driver.into(),
            pid: std::process::id(),
            sparkray_version: version.to_owned(),
            python_version: "3.11".to_owned(),
            log_to_driver: true,
            ..RegisterClient::default()
        };
        let correlation = self.send(FrameKind::RegisterClient, &register);
        self.reply(FrameKind::RegisterClientReply, correlation)
            .await
            .decode()
            .unwrap()
    }

    pub(crate) fn send<M: prost::Message>(&mut self, kind: FrameKind, message: &M) -> u64 {
        self.correlation += 1;
        self.sender
            .send(Frame::new(kind, self.correlation, message))
            .unwrap();
        self.correlation
    }

    pub(crate) async fn reply(&mut self, kind: FrameKind, correlation: u64) -> Frame {
        self.until(|frame| frame.kind == kind && frame.correlation == correlation)
            .await
    }

    /// Waits for a frame; others are kept.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        if let Some(index) = self.seen.iter().position(&wanted) {
            return self.seen.remove(index);
        }
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.receiver.next()).await;
            let frame = frame
                .expect("the frame comes in time")
                .unwrap()
                .expect("the raylet keeps the connection");
            if wanted(&frame) {
                return frame;
            }
            self.seen.push(frame);
        }
    }

    /// Room for one object, which is not sealed.
    pub(crate) async fn create_object(&mut self, node: &Node, size: u64) -> ObjectRange {
        let owner = WorkerAddress {
            node_id: node.id,
            worker_id: self.worker_id,
            node_address: node.ready.address.clone(),
        };
        let create = CreateObject {
            object_id: ObjectId::for_result(TaskId::next(), 0).to_vec().into(),
            size,
            owner: Some((&owner).into()),
            ..CreateObject::default()
        };
        let correlation = self.send(FrameKind::CreateObject, &create);
        let reply = self.reply(FrameKind::CreateObjectReply, correlation).await;
        reply.decode::<CreateObjectReply>().unwrap().range.unwrap()
    }

    pub(crate) fn request_lease(&mut self, amount: f64) -> (LeaseId, u64) {
        let lease = LeaseId::random();
        (lease, self.repeat_lease(lease, amount, "3.11"))
    }

    pub(crate) fn repeat_lease(&mut self, lease: LeaseId, amount: f64, python_version: &str) -> u64 {
        let request = RequestWorkerLease {
            lease_id: lease.to_vec().into(),
            job_id: self.job.to_vec().into(),
            resources: Some((&cpus(amount)).into()),
            python_version: python_version.to_owned(),
            ..RequestWorkerLease::default()
        };
        self.send(FrameKind::RequestWorkerLease, &request)
    }

    pub(crate) async fn lease_reply(&mut self, correlation: u64) -> RequestWorkerLeaseReply {
        self.reply(FrameKind::RequestWorkerLeaseReply, correlation)
            .await
            .decode()
            .unwrap()
    }

    pub(crate) async fn ask_head(&mut self, request: head_request::Request) -> HeadReply {
        let correlation = self.send(
            FrameKind::HeadRequest,
            &HeadRequest {
                request: Some(request),
            },
        );
        self.reply(FrameKind::HeadReply, correlation)
            .await
            .decode()
            .unwrap()
    }

    pub(crate) fn give_back(&mut self, lease: LeaseId) {
        let message = ReturnWorkerLease {
            lease_id: lease.to_vec().into(),
            worker_failed: false,
        };
        self.send(FrameKind::ReturnWorkerLease, &message);
    }
}
