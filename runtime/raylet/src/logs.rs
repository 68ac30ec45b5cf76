//! What workers print: into files, and in batches to the loop, which sends it to the job's driver.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sparkray_common::WorkerId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::event::Event;

/// Longer lines are cut into pieces.
const MAX_LINE: usize = 16 * 1024;
const BATCH_BYTES: usize = 64 * 1024;
/// Short: a driver that ends waits for the last lines a few times as long.
const BATCH_TIME: Duration = Duration::from_millis(20);
/// A line without its end is sent after this time without more of it.
const PARTIAL_TIME: Duration = Duration::from_millis(40);
/// What one pipe may send to the driver: bytes per second, and bytes at once.
const RATE: f64 = (1 << 20) as f64;
const BURST: f64 = (4 << 20) as f64;

/// Cuts bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<String>) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(part);
            if self.rest.ends_with(b"\n") {
                self.rest.pop();
                if self.rest.ends_with(b"\r") {
                    self.rest.pop();
                }
                self.cut(out);
            } else if self.rest.len() >= MAX_LINE {
                self.cut(out);
            }
        }
    }

    fn cut(&mut self, out: &mut Vec<String>) {
        if self.rest.len() <= MAX_LINE {
            out.push(String::from_utf8_lossy(&self.rest).into_owned());
        } else {
            out.extend(
                self.rest
                    .chunks(MAX_LINE)
                    .map(|piece| String::from_utf8_lossy(piece).into_owned()),
            );
        }
        self.rest.clear();
    }

    fn finish(&mut self, out: &mut Vec<String>) {
        if !self.rest.is_empty() {
            self.cut(out);
        }
    }
}

/// Bounds what goes to the driver; the file has everything.
#[derive(Debug)]
struct Allowance {
    bytes: f64,
    at: Instant,
    dropped: usize,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self {
            bytes: BURST,
            at: now,
            dropped: 0,
        }
    }

    /// Keeps what may be sent; says so when lines were left out.
    fn limit(&mut self, lines: Vec<String>, now: Instant, file: &str) -> Vec<String> {
        self.bytes = (self.bytes + now.duration_since(self.at).as_secs_f64() * RATE).min(BURST);
        self.at = now;
        let mut kept = Vec::with_capacity(lines.len());
        for line in lines {
            let cost = line.len() as f64 + 1.0;
            if cost > self.bytes {
                self.dropped += 1;
                continue;
            }
            if self.dropped > 0 {
                kept.push(format!(
                    "[sparkray: {} lines left out; all of them are in {file}]",
                    self.dropped
                ));
                self.dropped = 0;
            }
            self.bytes -= cost;
            kept.push(line);
        }
        kept
    }
}

/// One of a worker's two pipes.
pub(crate) struct Output {
    pub(crate) worker_id: WorkerId,
    pub(crate) is_stderr: bool,
    pub(crate) pipe: OwnedFd,
    pub(crate) file: PathBuf,
}

/// Follows one pipe to its end.
pub(crate) async fn follow(output: Output, events: mpsc::Sender<Event>, cancel: CancellationToken) {
    let worker_id = output.worker_id;
    tokio::select! {
        () = cancel.cancelled() => return,
        () = copy(output, &events) => {}
    }
    // The receiver is gone only when the raylet ends.
    let _ = events.send(Event::OutputEnded { worker_id }).await;
}

async fn copy(output: Output, events: &mpsc::Sender<Event>) {
    let Output {
        worker_id,
        is_stderr,
        pipe,
        file: path,
    } = output;
    let mut pipe = match pipe::Receiver::from_owned_fd(pipe) {
        Ok(pipe) => pipe,
        Err(error) => {
            warn!(%worker_id, %error, "cannot read the output of a worker");
            return;
        }
    };
    let mut file = None;
    let mut failed = false;
    let mut lines = Lines::default();
    let mut batch = Vec::new();
    let mut batch_bytes = 0;
    let mut allowance = Allowance::new(Instant::now());
    let mut buffer = vec![0; BATCH_BYTES];
    let mut flush_at = tokio::time::Instant::now();
    let mut partial_at = flush_at;
    loop {
        let read = tokio::select! {
            read = pipe.read(&mut buffer) => Some(read),
            () = tokio::time::sleep_until(flush_at), if !batch.is_empty() => None,
            () = tokio::time::sleep_until(partial_at), if !lines.rest.is_empty() => {
                lines.finish(&mut batch);
                flush_at = tokio::time::Instant::now();
                None
            }
        };
        let ended = match read {
            Some(Ok(0) | Err(_)) => {
                lines.finish(&mut batch);
                true
            }
            Some(Ok(count)) => {
                if file.is_none() && !failed {
                    file = open_log(&path).await;
                    failed = file.is_none();
                }
                write_log(&mut file, &buffer[..count], &path).await;
                let now = tokio::time::Instant::now();
                if batch.is_empty() {
                    flush_at = now + BATCH_TIME;
                }
                partial_at = now + PARTIAL_TIME;
                lines.push(&buffer[..count], &mut batch);
                batch_bytes += count;
                false
            }
            None => false,
        };
        let due = ended || batch_bytes >= BATCH_BYTES || tokio::time::Instant::now() >= flush_at;
        if due && !batch.is_empty() {
            let kept = allowance.limit(
                std::mem::take(&mut batch),
                Instant::now(),
                &path.display().to_string(),
            );
            batch_bytes = 0;
            if !kept.is_empty()
                && events
                    .send(Event::Output {
                        worker_id,
                        is_stderr,
                        lines: kept,
                    })
                    .await
                    .is_err()
            {
                return;
            }
        }
        if ended {
            return;
        }
    }
}

async fn open_log(path: &PathBuf) -> Option<tokio::fs::File> {
    match tokio::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .await
    {
        Ok(file) => Some(file),
        Err(error) => {
            warn!(path = %path.display(), %error, "cannot write a worker's log; its output still reaches the driver");
            None
        }
    }
}

/// Appends; a file that cannot be written is given up, so that a full disk does not stop the worker.
async fn write_log(file: &mut Option<tokio::fs::File>, bytes: &[u8], path: &std::path::Path) {
    let Some(open) = file else { return };
    let outcome = match open.write_all(bytes).await {
        Ok(()) => open.flush().await,
        Err(error) => Err(error),
    };
    if let Err(error) = outcome {
        warn!(path = %path.display(), %error, "cannot write a worker's log any more");
        *file = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_and_long_ones_are_cut() {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        lines.push(b"one\ntw", &mut out);
        lines.push(b"o\r\n\nrest", &mut out);
        assert_eq!(out, vec!["one", "two", ""]);
        lines.finish(&mut out);
        assert_eq!(out.pop().as_deref(), Some("rest"));
        out.clear();
        lines.push(&vec![b'x'; 3 * MAX_LINE], &mut out);
        lines.push(b"\n", &mut out);
        assert!(out.iter().all(|line| line.len() <= MAX_LINE));
        assert_eq!(out.iter().map(String::len).sum::<usize>(), 3 * MAX_LINE);
    }

    #[test]
    fn a_flood_is_cut_off_and_says_so() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let flood = vec!["x".repeat(1023); 8 * 1024];
        assert_eq!(allowance.limit(flood, start, "f").len(), 4 * 1024);
        let later = allowance.limit(vec!["end".to_owned()], start + Duration::from_secs(1), "f");
        assert_eq!(later.len(), 2);
        assert!(later[0].contains("4096 lines left out"), "{}", later[0]);
        assert_eq!(later[1], "end");
    }

    #[tokio::test]
    async fn output_reaches_file_and_loop_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let (events, mut receiver) = mpsc::channel(16);
        let file = directory.path().join("worker.out");
        let worker_id = WorkerId::random();
        let output = Output {
            worker_id,
            is_stderr: false,
            pipe: read,
            file: file.clone(),
        };
        let task = tokio::spawn(follow(output, events, CancellationToken::new()));
        rustix::io::write(&write, b"first\nsecond\nno end").unwrap();
        let mut write = Some(write);
        let mut seen = Vec::new();
        while let Some(event) = receiver.recv().await {
            match event {
                Event::Output { lines, .. } => {
                    seen.extend(lines);
                    if seen.len() == 3 {
                        drop(write.take());
                    }
                }
                Event::OutputEnded { .. } => break,
                other => panic!("unexpected {other:?}"),
            }
        }
        task.await.unwrap();
        assert_eq!(seen, vec!["first", "second", "no end"]);
        assert_eq!(std::fs::read_to_string(file).unwrap(), "first\nsecond\nno end");
    }
}
