//! Whether the other end of a TCP connection can be reached, as its kernel's acknowledgements tell.
//!
//! A network that drops packets silently, or a host that vanished, breaks no connection by itself:
//! - with nothing under way, keep-alive probes notice it (see `pass_socket_options`);
//! - with data under way there are no probes, and the kernel repeats the data for a quarter of an hour. This module
//!   notices it: data was under way for [`SILENCE`], and no acknowledgement of any kind came.
//!
//! `TCP_USER_TIMEOUT` would do it for us, but Linux (since 5.11) applies it to a receiver that answers and does not read
//! too, and not to read for long is our back-pressure. A process that is stopped is not unreachable either: its kernel
//! answers.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Data that is under way for so long without any acknowledgement: the other end is unreachable.
pub const SILENCE: Duration = Duration::from_secs(8);
/// How often [`Reachability::check`] should be called.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Probes of a receiver that does not read, in a row without an answer. They come at growing intervals, so that the time
/// since the last acknowledgement says nothing by itself.
const LOST_PROBES: u8 = 3;

/// What the kernel says of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    /// Packets that are not acknowledged.
    unacknowledged: u32,
    /// Probes of a closed window since the last acknowledgement.
    probes: u8,
    /// Since the last acknowledgement.
    silence: Duration,
}

/// Watches one connection.
#[derive(Debug)]
pub struct Reachability {
    limit: Duration,
    /// Since when data is under way without an acknowledgement, as far as was seen.
    silent_since: Option<Instant>,
    /// Not a TCP socket.
    exempt: bool,
}

impl Default for Reachability {
    fn default() -> Self {
        Self::new(SILENCE)
    }
}

impl Reachability {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            silent_since: None,
            exempt: false,
        }
    }

    /// Whether there is anything to check: only TCP connections can lose their other end in silence.
    pub fn is_exempt(&self) -> bool {
        self.exempt
    }

    /// False: the other end cannot be reached, and the connection should be closed. That says nothing of the process at
    /// the other end.
    pub fn check(&mut self, socket: BorrowedFd<'_>, now: Instant) -> bool {
        if self.exempt {
            return true;
        }
        match sample(socket) {
            Ok(sample) => self.judge(sample, now),
            Err(_) => {
                self.exempt = true;
                true
            }
        }
    }

    fn judge(&mut self, sample: Sample, now: Instant) -> bool {
        if sample.unacknowledged == 0 && sample.probes < LOST_PROBES {
            self.silent_since = None;
            return true;
        }
        // What was sent after a long rest has been under way only since then.
        let mut since = self.silent_since.unwrap_or(now);
        if let Some(heard) = now.checked_sub(sample.silence) {
            since = since.max(heard);
        }
        self.silent_since = Some(since);
        now.saturating_duration_since(since) < self.limit
    }
}

#[allow(unsafe_code)]
fn sample(socket: BorrowedFd<'_>) -> io::Result<Sample> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`, which is as long, and all of whose bytes are set.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, and has only integers.
    let info = unsafe { info.assume_init() };
    Ok(Sample {
        unacknowledged: info.tcpi_unacked,
        probes: info.tcpi_probes,
        silence: Duration::from_millis(info.tcpi_last_ack_recv.into()),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const MOMENT: Duration = Duration::from_millis(500);
    const PATIENCE: Duration = Duration::from_mins(1);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        (near, far)
    }

    /// Makes a socket drop every packet that comes, as a silent cut of the network does.
    #[allow(unsafe_code)]
    fn cut(socket: &TcpStream) {
        let mut nothing = [libc::sock_filter {
            // BPF_RET | BPF_K
            code: 6,
            jt: 0,
            jf: 0,
            k: 0,
        }];
        let program = libc::sock_fprog {
            len: 1,
            filter: nothing.as_mut_ptr(),
        };
        // SAFETY: the kernel copies the program, which lives as long as the call.
        let outcome = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        };
        assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
    }

    /// The time until the other end counts as unreachable.
    fn time_until_unreachable(socket: &TcpStream, limit: Duration) -> Option<Duration> {
        let mut watch = Reachability::new(MOMENT);
        let begin = Instant::now();
        while begin.elapsed() < limit {
            if !watch.check(socket.as_fd(), Instant::now()) {
                return Some(begin.elapsed());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    #[test]
    fn a_silent_cut_with_data_under_way_is_noticed() {
        let (mut near, far) = pair();
        cut(&far);
        cut(&near);
        near.write_all(b"data").unwrap();
        assert!(time_until_unreachable(&near, PATIENCE).is_some());
    }

    #[test]
    fn a_reader_that_takes_its_time_is_reachable_until_it_is_cut_off() {
        let (mut near, far) = pair();
        while near.write(&[0; 8192]).is_ok() {}
        assert_eq!(time_until_unreachable(&near, 6 * MOMENT), None);
        cut(&far);
        cut(&near);
        assert!(time_until_unreachable(&near, PATIENCE).is_some());
    }

    #[test]
    fn the_first_data_after_a_long_rest_has_its_time() {
        let rest = Duration::from_hours(1);
        let begin = Instant::now() + 2 * rest;
        let mut watch = Reachability::default();
        let idle = Sample {
            unacknowledged: 0,
            probes: 0,
            silence: rest,
        };
        assert!(watch.judge(idle, begin));
        let sent = |after: Duration| Sample {
            unacknowledged: 3,
            probes: 0,
            silence: rest + after,
        };
        let second = Duration::from_secs(1);
        assert!(watch.judge(sent(second), begin + second));
        assert!(watch.judge(sent(SILENCE), begin + SILENCE));
        // Seen for the first time one second after the rest.
        assert!(!watch.judge(sent(SILENCE + second), begin + SILENCE + second));
    }

    #[test]
    fn any_acknowledgement_begins_the_time_anew() {
        let begin = Instant::now() + Duration::from_hours(1);
        let mut watch = Reachability::default();
        let busy = |silence: Duration| Sample {
            unacknowledged: 1,
            probes: 0,
            silence,
        };
        for second in 0..60 {
            let silence = Duration::from_secs(second % 6);
            assert!(watch.judge(busy(silence), begin + Duration::from_secs(second)));
        }
    }

    #[test]
    fn unix_sockets_are_left_alone() {
        let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut watch = Reachability::default();
        assert!(watch.check(near.as_fd(), Instant::now()));
        assert!(watch.is_exempt());
    }
}
