//! What an executor must have before anything is started on it.

use sparkray_common::{ErrorCode, VERSION};
use sparkray_proto::ManagerHello;

use crate::SupervisorError;
use crate::request::InitRequest;

/// The jar is compiled for it.
const OLDEST_JAVA: u32 = 8;
/// Store of a node that no container limits, when the user names no size.
const DEFAULT_STORE_BYTES: u64 = 1 << 30;

/// "executor 2 on host-b".
pub(super) fn name(hello: &ManagerHello) -> String {
    format!("executor {} on {}", hello.executor_id, hello.host)
}

/// The size of a node's store: what was asked for, else half of its budget.
pub(super) fn store_bytes(asked: u64, budget: u64) -> u64 {
    match (asked, budget) {
        (0, 0) => DEFAULT_STORE_BYTES,
        (0, budget) => budget / 2,
        (asked, _) => asked,
    }
}

/// Refuses an executor on which the cluster of `request` cannot run.
pub(super) fn check_member(hello: &ManagerHello, request: &InitRequest) -> Result<(), SupervisorError> {
    let name = name(hello);
    if hello.sparkray_version != VERSION {
        return Err(SupervisorError::refused(
            ErrorCode::VersionMismatch,
            format!(
                "{name} runs sparkray {}, the driver's jar is {VERSION}: ship one jar to all (--jars)",
                hello.sparkray_version
            ),
        ));
    }
    if request.sparkray_version != VERSION {
        return Err(SupervisorError::refused(
            ErrorCode::VersionMismatch,
            format!(
                "the driver's Python has sparkray {}, its jar is {VERSION}: use the jar that the package brings",
                request.sparkray_version
            ),
        ));
    }
    match java_major(&hello.java_version) {
        Some(major) if major >= OLDEST_JAVA => {}
        _ => {
            return Err(SupervisorError::refused(
                ErrorCode::VersionMismatch,
                format!(
                    "{name} runs Java {}: sparkray needs Java {OLDEST_JAVA} or newer",
                    hello.java_version
                ),
            ));
        }
    }
    let budget = hello.memory_budget_bytes;
    if budget > 0 && request.object_store_bytes > budget {
        return Err(SupervisorError::refused(
            ErrorCode::InvalidArgument,
            format!(
                "object_store_memory is {} but {name} has set aside only {} for Ray: ask for a smaller store, or give \
                 more with extra_executor_memory_for_ray",
                human(request.object_store_bytes),
                human(budget)
            ),
        ));
    }
    Ok(())
}

/// 8 of "1.8.0_392", 17 of "17.0.15".
fn java_major(version: &str) -> Option<u32> {
    let mut parts = version.split(|character: char| !character.is_ascii_digit());
    let first: u32 = parts.next()?.parse().ok()?;
    if first == 1 {
        parts.next()?.parse().ok()
    } else {
        Some(first)
    }
}

/// Bytes as people write them.
fn human(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (size, unit) in units {
        if bytes >= size {
            return format!("{:.1} {unit}", bytes as f64 / size as f64);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_versions_are_read_in_both_spellings() {
        assert_eq!(java_major("1.8.0_392"), Some(8));
        assert_eq!(java_major("17.0.15"), Some(17));
        assert_eq!(java_major("21-ea"), Some(21));
        assert_eq!(java_major("1.7.0"), Some(7));
        assert_eq!(java_major("unknown"), None);
    }

    #[test]
    fn a_store_is_half_of_the_budget_unless_asked_for() {
        assert_eq!(store_bytes(0, 1000), 500);
        assert_eq!(store_bytes(0, 0), DEFAULT_STORE_BYTES);
        assert_eq!(store_bytes(7, 1000), 7);
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(human(3 << 30), "3.0 GiB");
        assert_eq!(human(512 << 20), "512.0 MiB");
        assert_eq!(human(5), "5 bytes");
    }
}
