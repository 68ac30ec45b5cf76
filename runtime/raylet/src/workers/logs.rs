//! What workers print: into files, and in batches to the loop, which sends it to the job's driver.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sparkray_common::WorkerId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tracing::warn;

use crate::input::Input;

/// Of a longer line the driver gets the beginning; the file has everything.
const MAX_LINE: usize = 1 << 20;
/// More than this of a line is one that is being written, in pieces of a pipe's size.
const LONG_LINE: usize = 4096;
const BATCH_BYTES: usize = 64 * 1024;
/// Short: a driver that ends waits for the last lines a few times as long.
const BATCH_TIME: Duration = Duration::from_millis(20);
/// A line without its end is sent after this time without more of it,
const PARTIAL_TIME: Duration = Duration::from_millis(40);
/// and a long one, whose writer may only have been held up, after this.
const LONG_PARTIAL_TIME: Duration = Duration::from_millis(500);
/// What one pipe may send to the driver: bytes per second, and bytes at once.
const RATE: f64 = (1 << 20) as f64;
const BURST: f64 = (16 << 20) as f64;

/// Cuts bytes into lines. A carriage return ends one too: progress bars write nothing else.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
    /// The line was longer than [`MAX_LINE`]: what follows of it is not sent.
    is_cut: bool,
    /// All of the line is out already, by a carriage return or for its lateness: its end is no line.
    is_out: bool,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], file: &str, out: &mut Vec<String>) {
        for part in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let (text, end) = match part.split_last() {
                Some((end @ (b'\n' | b'\r'), text)) => (text, Some(*end)),
                _ => (part, None),
            };
            self.extend(text, file, out);
            match end {
                // What returned to its beginning without having written is no line.
                Some(b'\r') if self.rest.is_empty() => self.is_out |= self.is_cut,
                Some(b'\r') => {
                    self.finish(out);
                    self.is_out = true;
                }
                Some(_) if self.is_out || self.is_cut => self.is_out = false,
                Some(_) => {
                    out.push(String::from_utf8_lossy(&self.rest).into_owned());
                    self.rest.clear();
                }
                None => {}
            }
            if end.is_some() {
                self.is_cut = false;
            }
        }
    }

    fn extend(&mut self, text: &[u8], file: &str, out: &mut Vec<String>) {
        if text.is_empty() {
            return;
        }
        self.is_out = false;
        if self.is_cut {
            return;
        }
        let room = MAX_LINE - self.rest.len();
        if text.len() <= room {
            self.rest.extend_from_slice(text);
            return;
        }
        self.rest.extend_from_slice(&text[..room]);
        let kept = self.rest.len() - unfinished(&self.rest);
        let beginning = String::from_utf8_lossy(&self.rest[..kept]);
        out.push(format!(
            "{beginning} [sparkray: the line is cut here, after {MAX_LINE} bytes; all of it is in {file}]"
        ));
        self.rest.clear();
        self.is_cut = true;
    }

    /// Sends a line that has not ended, but for a character of which only a part is there.
    fn send_partial(&mut self, out: &mut Vec<String>) {
        let kept = self.rest.len() - unfinished(&self.rest);
        // Nothing but a part of a character: no more of it has come in time.
        let kept = if kept == 0 { self.rest.len() } else { kept };
        let text: Vec<u8> = self.rest.drain(..kept).collect();
        self.is_out = self.rest.is_empty();
        out.push(String::from_utf8_lossy(&text).into_owned());
    }

    fn finish(&mut self, out: &mut Vec<String>) {
        if !self.rest.is_empty() {
            out.push(String::from_utf8_lossy(&self.rest).into_owned());
            self.rest.clear();
        }
    }

    /// How long to wait for more of a line.
    fn patience(&self) -> Duration {
        if self.rest.len() >= LONG_LINE {
            LONG_PARTIAL_TIME
        } else {
            PARTIAL_TIME
        }
    }
}

/// Bytes at the end that are the beginning of a character in UTF-8.
fn unfinished(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    let Some(at) = tail.iter().rposition(|byte| byte & 0b1100_0000 != 0b1000_0000) else {
        return 0;
    };
    let needed = match tail[at] {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => 1,
    };
    let there = tail.len() - at;
    if there < needed { there } else { 0 }
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
pub(crate) async fn follow(output: Output, inputs: mpsc::Sender<Input>) {
    let worker_id = output.worker_id;
    copy(output, &inputs).await;
    // The receiver is gone only when the raylet ends.
    let _ = inputs.send(Input::OutputEnded { worker_id }).await;
}

async fn copy(output: Output, inputs: &mpsc::Sender<Input>) {
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
    let shown_path = path.display().to_string();
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
                lines.send_partial(&mut batch);
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
                lines.push(&buffer[..count], &shown_path, &mut batch);
                partial_at = now + lines.patience();
                batch_bytes += count;
                false
            }
            None => false,
        };
        let due = ended || batch_bytes >= BATCH_BYTES || tokio::time::Instant::now() >= flush_at;
        if due && !batch.is_empty() {
            let kept = allowance.limit(std::mem::take(&mut batch), Instant::now(), &shown_path);
            batch_bytes = 0;
            if !kept.is_empty()
                && inputs
                    .send(Input::Output {
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

    fn pushed(lines: &mut Lines, bytes: &[u8]) -> Vec<String> {
        let mut out = Vec::new();
        lines.push(bytes, "the file", &mut out);
        out
    }

    #[test]
    fn lines_are_put_together() {
        let mut lines = Lines::default();
        assert_eq!(pushed(&mut lines, b"one\ntw"), ["one"]);
        assert_eq!(pushed(&mut lines, b"o\r\n\nrest"), ["two", ""]);
        assert_eq!(pushed(&mut lines, b" of it\r"), ["rest of it"]);
        assert_eq!(pushed(&mut lines, b"\n\nend"), [""]);
        let mut out = Vec::new();
        lines.finish(&mut out);
        lines.finish(&mut out);
        assert_eq!(out, ["end"]);
    }

    #[test]
    fn a_progress_bar_is_a_line_each_time_it_returns() {
        let mut lines = Lines::default();
        assert_eq!(pushed(&mut lines, b"\r 10%\r 20%\r\r 30%"), [" 10%", " 20%"]);
        assert_eq!(pushed(&mut lines, b"\n"), [" 30%"]);
    }

    #[test]
    fn a_long_line_is_one_and_a_longer_one_is_cut_and_says_so() {
        let mut lines = Lines::default();
        let long = "x".repeat(MAX_LINE);
        for piece in long.as_bytes().chunks(4096) {
            assert!(pushed(&mut lines, piece).is_empty());
        }
        assert_eq!(lines.patience(), LONG_PARTIAL_TIME);
        assert_eq!(pushed(&mut lines, b"\n"), [long.as_str()]);
        // The 'ä' lies across the limit.
        let longer = format!("{}ä{long}\nnext\n", "x".repeat(MAX_LINE - 1));
        let out = pushed(&mut lines, longer.as_bytes());
        assert_eq!(
            out.len(),
            2,
            "{:?}",
            out.iter().map(String::len).collect::<Vec<_>>()
        );
        assert!(out[0].starts_with(&long[1..]) && out[0].ends_with("all of it is in the file]"));
        assert!(!out[0].contains('\u{fffd}'));
        assert_eq!(out[1], "next");
        for end in [&b"\r\n"[..], b"\r", b"\n"] {
            assert_eq!(
                pushed(&mut lines, longer.trim_end_matches("\nnext\n").as_bytes()).len(),
                1
            );
            assert!(
                pushed(&mut lines, end).is_empty(),
                "the end of a cut line is no line"
            );
            assert_eq!(pushed(&mut lines, b"after\n"), ["after"]);
        }
    }

    #[test]
    fn a_character_is_never_halved_and_what_is_none_is_shown_as_such() {
        let mut lines = Lines::default();
        let mut out = pushed(&mut lines, "grün – ".as_bytes());
        let (first, second) = "€".as_bytes().split_at(2);
        lines.push(first, "", &mut out);
        lines.send_partial(&mut out);
        assert_eq!(out, ["grün – "]);
        lines.push(second, "", &mut out);
        lines.push(b"\n", "", &mut out);
        assert_eq!(out[1], "€");
        out.clear();
        lines.push(b"\xe2\x82", "", &mut out);
        lines.send_partial(&mut out);
        assert_eq!(out, ["\u{fffd}"]);
        assert!(
            pushed(&mut lines, b"\n").is_empty(),
            "the end of a line that is out"
        );
        assert_eq!(pushed(&mut lines, b"a\0b\xff\n"), ["a\0b\u{fffd}"]);
    }

    #[test]
    fn a_flood_is_cut_off_and_says_so() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let flood = vec!["x".repeat(1023); 20 * 1024];
        assert_eq!(allowance.limit(flood, start, "f").len(), 16 * 1024);
        let later = allowance.limit(vec!["end".to_owned()], start + Duration::from_secs(1), "f");
        assert_eq!(later.len(), 2);
        assert!(later[0].contains("4096 lines left out"), "{}", later[0]);
        assert_eq!(later[1], "end");
    }

    #[tokio::test]
    async fn output_reaches_file_and_loop_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let (inputs, mut receiver) = mpsc::channel(16);
        let file = directory.path().join("worker.out");
        let worker_id = WorkerId::random();
        let output = Output {
            worker_id,
            is_stderr: false,
            pipe: read,
            file: file.clone(),
        };
        let task = tokio::spawn(follow(output, inputs));
        rustix::io::write(&write, b"first\nsecond\nno end").unwrap();
        let mut write = Some(write);
        let mut seen = Vec::new();
        while let Some(event) = receiver.recv().await {
            match event {
                Input::Output { lines, .. } => {
                    seen.extend(lines);
                    if seen.len() == 3 {
                        drop(write.take());
                    }
                }
                Input::OutputEnded { .. } => break,
                other => panic!("unexpected {other:?}"),
            }
        }
        task.await.unwrap();
        assert_eq!(seen, vec!["first", "second", "no end"]);
        assert_eq!(std::fs::read_to_string(file).unwrap(), "first\nsecond\nno end");
    }
}
