//! Output, and what else is to be printed, for a driver that may not read it. Pure.

/// More frames, or bytes, than this in a driver's queue: it does not read, and its output is dropped.
const MAX_QUEUED_FRAMES: usize = 1024;
const MAX_QUEUED_BYTES: usize = 32 << 20;

/// Whether a driver reads, when that much waits for it.
pub(super) fn reads(queued_frames: usize, queued_bytes: usize) -> bool {
    queued_frames <= MAX_QUEUED_FRAMES && queued_bytes <= MAX_QUEUED_BYTES
}

/// Lines of output that a driver was too slow for, until it is told.
#[derive(Debug, Default)]
pub(super) struct DriverLog {
    lost_lines: usize,
}

impl DriverLog {
    /// Whether the driver gets so many lines while that much waits for it; then also how many it has missed since the
    /// last time.
    pub(super) fn takes(&mut self, lines: usize, queued_frames: usize, queued_bytes: usize) -> Option<usize> {
        if !reads(queued_frames, queued_bytes) {
            self.lost_lines += lines;
            return None;
        }
        Some(std::mem::take(&mut self.lost_lines))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_for_a_driver_that_does_not_read_is_dropped_and_counted() {
        let mut log = DriverLog::default();
        assert_eq!(log.takes(5, 0, 0), Some(0));
        assert_eq!(log.takes(5, MAX_QUEUED_FRAMES + 1, 0), None);
        assert_eq!(log.takes(7, 1, MAX_QUEUED_BYTES + 1), None);
        assert_eq!(log.takes(1, 0, 0), Some(12));
        assert_eq!(log.takes(1, 0, 0), Some(0));
    }
}
