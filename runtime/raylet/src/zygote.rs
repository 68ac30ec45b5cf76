//! The zygote: one single-threaded Python process that has imported sparkray and forks workers on request.
//!
//! # Start
//!
//! The raylet runs `<config.python> -m sparkray._private.zygote` from its main thread. The zygote inherits
//!
//! - descriptor 0: its end of the control socket (`AF_UNIX`, `SOCK_SEQPACKET`, blocking). It moves it elsewhere
//!   with close-on-exec (`os.dup`) and opens `/dev/null` as descriptor 0,
//! - descriptors 1 and 2: the file `zygote.log` in the log directory,
//! - the raylet's environment with `config.worker_env` and `OMP_NUM_THREADS`, `OPENBLAS_NUM_THREADS`,
//!   `MKL_NUM_THREADS`, `NUMEXPR_NUM_THREADS` = 1, `SPARKRAY_CLUSTER_ID`, `SPARKRAY_NODE_ID` (hexadecimal;
//!   tests find processes by them) and `SPARKRAY_RAYLET_PID`,
//! - `config.working_dir` as its working directory.
//!
//! First it calls `prctl(PR_SET_PDEATHSIG, SIGKILL)` and ends unless `getppid()` is `SPARKRAY_RAYLET_PID`.
//! It ignores SIGINT. End of file on the control socket ends it.
//!
//! # Messages
//!
//! One JSON object in each packet, at most [`MAX_MESSAGE`] bytes.
//!
//! Zygote to raylet, once, when its imports are done:
//!
//! ```json
//! {"kind": "ready", "pid": 4711, "python_version": "3.11", "sparkray_version": "0.1.0"}
//! ```
//!
//! Raylet to zygote, with exactly three descriptors by `SCM_RIGHTS`, in this order: the worker's end of its raylet
//! connection (`AF_UNIX`, `SOCK_STREAM`, non-blocking, no handshake: the first frame is RegisterClient), the
//! write end of the pipe for its standard output, the same for standard error:
//!
//! ```json
//! {"kind": "fork", "worker_id": "<32 hex>", "config": {
//!     "worker_id": "<32 hex>", "node_id": "<32 hex>", "cluster_id": "<32 hex>", "token": "<64 hex>",
//!     "head_epoch": 1, "raylet_pid": 4242, "node_ip": "10.0.0.5", "node_address": "10.0.0.5:40001",
//!     "socket_name": "sparkray-…", "log_dir": "…"}}
//! ```
//!
//! Zygote to raylet, in the order of the requests, after the double fork:
//!
//! ```json
//! {"kind": "forked", "worker_id": "<32 hex>", "pid": 4713}
//! {"kind": "failed", "worker_id": "<32 hex>", "error": "fork: Resource temporarily unavailable"}
//! ```
//!
//! # The double fork
//!
//! The zygote makes a pipe and forks a middle process; the middle one forks the worker, writes the worker's pid into
//! the pipe and calls `os._exit(0)`; the zygote reads the pid and waits for the middle process, then closes its copies
//! of the three descriptors and replies. The worker is then a child of the raylet, its subreaper. The worker, in this order:
//! waits until `getppid()` is `raylet_pid` (the middle process is gone; a parent-death signal set earlier would kill it
//! when the middle one ends; it waits for end of file on the pipe, whose write end only the middle process keeps),
//! calls `prctl(PR_SET_PDEATHSIG, SIGKILL)`, checks `getppid()` again, duplicates the pipes onto descriptors 1 and 2 (line-buffered
//! text, UTF-8, errors=backslashreplace), closes the control socket, sets SIGINT to ignored, reseeds every random
//! generator, and calls `CoreWorker.connect_worker(fd, raylet_pid, config)`.
//!
//! The worker's raylet connection is the only thing that it needs to live: when it breaks, the worker exits at once.

/// Largest control message.
pub const MAX_MESSAGE: usize = 64 * 1024;
