//! What an executor must have before anything is started on it.

use sparkray_common::{ErrorCode, VERSION};
use sparkray_proto::ManagerHello;

use crate::SupervisorError;
use crate::request::InitRequest;

/// The jar is compiled for it.
const OLDEST_JAVA: u32 = 8;
/// Store of a node that no container limits, when the user names no size.
const DEFAULT_STORE_BYTES: u64 = 1 << 30;
/// Raylet, head, zygote and one worker with pyarrow: 102 MiB resident, measured.
const WORKER_RESERVE_BYTES: u64 = 128 << 20;
/// A smaller store is of no use.
const LEAST_STORE_BYTES: u64 = 16 << 20;

/// "executor 2 on host-b".
pub(super) fn name(hello: &ManagerHello) -> String {
    format!("executor {} on {}", hello.executor_id, hello.host)
}

/// The size of a node's store: what was asked for, else half of its budget, less when workers need more.
pub(super) fn store_bytes(asked: u64, budget: u64) -> u64 {
    match (asked, budget) {
        (0, 0) => DEFAULT_STORE_BYTES,
        (0, budget) => (budget / 2).min(budget.saturating_sub(WORKER_RESERVE_BYTES)),
        (asked, _) => asked,
    }
}

/// The size of the store of the driver's own node: what was asked for, but in a container at most half of its budget. Nobody
/// has asked for memory there by the name of Ray, and what the driver fetches may go to disk.
pub(super) fn driver_store_bytes(request: &InitRequest) -> u64 {
    let budget = request.driver_memory_budget_bytes;
    let store = store_bytes(request.object_store_bytes, budget);
    if budget == 0 { store } else { store.min(budget / 2) }
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
    check_memory(&name, hello, request.object_store_bytes)
}

/// Refuses a store beside which there is no room for workers, or none for the store itself.
fn check_memory(name: &str, hello: &ManagerHello, asked: u64) -> Result<(), SupervisorError> {
    let budget = hello.memory_budget_bytes;
    let refuse = |message: String| Err(SupervisorError::refused(ErrorCode::InvalidArgument, message));
    if budget == 0 {
        if hello.in_container {
            return refuse(format!(
                "{name} has no memory for Ray: its container holds what Spark itself needs and nothing more; pass \
                 extra_executor_memory_for_ray to init_spark_on_yarn, or raise spark.executor.memoryOverhead"
            ));
        }
        return Ok(());
    }
    let store = store_bytes(asked, budget);
    if store > budget {
        return refuse(format!(
            "object_store_memory is {} but {name} has set aside only {} for Ray: ask for a smaller store, or give more \
             with extra_executor_memory_for_ray or spark.executor.memoryOverhead",
            human(store),
            human(budget)
        ));
    }
    if store < LEAST_STORE_BYTES || budget - store < WORKER_RESERVE_BYTES {
        return refuse(format!(
            "{name} has set aside {} for Ray, and {} of it are for objects: raylet and workers need at least {} beside \
             the store; ask for a smaller object_store_memory, or give more with extra_executor_memory_for_ray or \
             spark.executor.memoryOverhead",
            human(budget),
            human(store),
            human(WORKER_RESERVE_BYTES)
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
        assert_eq!(store_bytes(0, 1 << 30), 512 << 20);
        assert_eq!(store_bytes(0, 0), DEFAULT_STORE_BYTES);
        assert_eq!(store_bytes(7, 1000), 7);
        assert_eq!(store_bytes(0, 200 << 20), 72 << 20, "workers need the rest");
        assert_eq!(store_bytes(0, 1000), 0);
    }

    #[test]
    fn the_drivers_store_fits_into_its_container() {
        let store = |asked: u64, budget: u64| {
            driver_store_bytes(&InitRequest {
                object_store_bytes: asked,
                driver_memory_budget_bytes: budget,
                ..InitRequest::of_nodes(1)
            })
        };
        assert_eq!(store(0, 0), DEFAULT_STORE_BYTES);
        assert_eq!(store(2 << 30, 0), 2 << 30, "no container limits it");
        assert_eq!(store(2 << 30, 512 << 20), 256 << 20);
        assert_eq!(store(64 << 20, 512 << 20), 64 << 20);
        assert_eq!(
            store(0, 192 << 20),
            64 << 20,
            "the driver's raylet needs the rest"
        );
    }

    #[test]
    fn store_and_workers_must_fit_into_the_budget() {
        let check = |asked: u64, budget: u64, in_container: bool| {
            let hello = ManagerHello {
                executor_id: "7".to_owned(),
                host: "host-b".to_owned(),
                memory_budget_bytes: budget,
                in_container,
                ..ManagerHello::default()
            };
            check_memory(&name(&hello), &hello, asked).map_err(|error| error.to_string())
        };
        assert_eq!(check(0, 0, false), Ok(()), "no container limits it");
        assert_eq!(check(384 << 20, 512 << 20, true), Ok(()));
        assert_eq!(check(0, 144 << 20, true), Ok(()));
        let all = check(512 << 20, 512 << 20, true).unwrap_err();
        assert!(
            all.contains("at least 128.0 MiB") && all.contains("executor 7 on host-b"),
            "{all}"
        );
        let little = check(0, 100 << 20, true).unwrap_err();
        assert!(little.contains("has set aside 100.0 MiB"), "{little}");
        let larger = check(600 << 20, 512 << 20, false).unwrap_err();
        assert!(
            larger.contains("object_store_memory is 600.0 MiB but executor 7"),
            "{larger}"
        );
        let nothing = check(0, 0, true).unwrap_err();
        assert!(
            nothing.contains("pass extra_executor_memory_for_ray"),
            "{nothing}"
        );
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(human(3 << 30), "3.0 GiB");
        assert_eq!(human(512 << 20), "512.0 MiB");
        assert_eq!(human(5), "5 bytes");
    }
}
