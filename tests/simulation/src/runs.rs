//! Seeds: what a run does, and many of them.

use std::fs::OpenOptions;
use std::io::Write;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cluster::{Cluster, DRIVER, Plan, SECOND};
use crate::faults;
use crate::random::{Random, seed_hash_tables};

/// Seeds of the usual run.
const SEEDS: u64 = 300;
/// Seeds between two lines of a soak.
const SOAK_BATCH: u64 = 2000;
/// After the last fault all results are there in this time, and everything is given back.
const REST: u64 = 120;

/// A whole run; panics where something does not hold.
fn run(seed: u64) {
    let mut random = Random::new(seed);
    let hosts = random.between(1, 5) as usize;
    let plan = Plan {
        hosts,
        cpus: random.between(1, 4) as u32,
        head_host: random.below(hosts as u64) as usize,
        store_bytes: 1 << 22,
        spill_dirs: Vec::new(),
    };
    let mut cluster = Cluster::new(random.next(), plan);
    cluster.until("the driver has its job", 30, |cluster| cluster.program.has_job);
    cluster.program.with_actors = random.chance(70);
    cluster.program.with_cancels = random.chance(70);
    cluster.program.pause = random.between(2_000, 400_000);
    let has_faults = random.chance(75);
    if has_faults {
        let faults = faults::of_seed(&mut random);
        cluster.plan_faults(faults);
    }
    cluster.begin_program(random.between(10, 150) as u32);
    cluster.until("the program is over", 300, |cluster| {
        cluster.check_references();
        cluster.is_program_over()
    });
    cluster.pass(if has_faults { cluster.faults.within } else { 0 });
    cluster.until("the network is whole", 60, |cluster| {
        cluster.network.is_whole() && cluster.head.runs()
    });
    come_to_rest(&mut cluster);
}

/// The driver asks for every value that it has a reference to.
pub(crate) fn ask_for_all(cluster: &mut Cluster) {
    let held: Vec<_> = cluster.processes[DRIVER]
        .references
        .iter()
        .map(|(id, _)| *id)
        .collect();
    for id in held {
        cluster.fetch_for_check(id);
    }
    cluster.outputs(DRIVER);
}

/// All results come, and are right.
pub(crate) fn await_values(cluster: &mut Cluster) {
    ask_for_all(cluster);
    let end = cluster.agenda.now + REST * SECOND;
    while !cluster.missing().is_empty() {
        assert!(
            cluster.agenda.now < end,
            "missing after {REST} s: {}",
            cluster.missing()
        );
        cluster.pass(SECOND);
        cluster.check_references();
    }
}

/// All results come, and are right; and when the driver lets go, nothing is left.
pub(crate) fn come_to_rest(cluster: &mut Cluster) {
    await_values(cluster);
    cluster.check_runs();
    cluster.end_program();
    let end = cluster.agenda.now + REST * SECOND;
    while !cluster.leftovers().is_empty() && cluster.agenda.now < end {
        cluster.pass(SECOND);
    }
    // Longer than any timer of a process that has nothing to do.
    cluster.pass(15 * SECOND);
    cluster.check_nothing_left();
}

/// Runs a seed on a thread of its own, whose hash tables follow from the seed.
pub(crate) fn on_its_own<T: Send + 'static>(
    seed: u64,
    run: impl FnOnce() -> T + Send + 'static,
) -> thread::Result<T> {
    let thread = thread::Builder::new().name(format!("seed {seed}"));
    let running = thread.spawn(move || {
        seed_hash_tables(seed);
        run()
    });
    running.expect("a thread").join()
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

/// The seeds of these that fail, with the reasons.
fn failing(seeds: impl Iterator<Item = u64> + Send) -> Vec<(u64, String)> {
    let seeds: Vec<u64> = seeds.collect();
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let mut failed: Vec<(u64, String)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut failed = Vec::new();
                    while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                        let seed = *seed;
                        if let Err(panic) = on_its_own(seed, move || run(seed)) {
                            failed.push((seed, message(&*panic)));
                        }
                    }
                    failed
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    failed.sort_unstable();
    failed
}

/// A seed that is to be run again.
fn wanted_seed() -> Option<u64> {
    let seed = std::env::var("SEED").ok()?;
    Some(seed.parse().expect("SEED is a number"))
}

#[test]
fn seeds_hold() {
    if let Some(seed) = wanted_seed() {
        if let Err(panic) = on_its_own(seed, move || run(seed)) {
            resume_unwind(panic);
        }
        return;
    }
    let failed = failing(0..SEEDS);
    let list: Vec<String> = failed
        .iter()
        .map(|(seed, reason)| format!("SEED={seed}: {reason}"))
        .collect();
    assert!(
        failed.is_empty(),
        "{} seeds fail:\n{}",
        failed.len(),
        list.join("\n")
    );
}

/// New seeds until somebody stops it, from `SEED` on or from the time. Those that fail are kept.
#[test]
#[ignore = "it does not end: make soak"]
fn soak() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut first = wanted_seed().unwrap_or(clock.as_secs() << 16);
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/simulation-seeds.txt");
    let (mut done, mut failures) = (0, 0);
    loop {
        let failed = failing(first..first + SOAK_BATCH);
        let mut file = OpenOptions::new().create(true).append(true).open(&kept).unwrap();
        for (seed, reason) in &failed {
            writeln!(file, "SEED={seed}: {reason}").unwrap();
        }
        first += SOAK_BATCH;
        done += SOAK_BATCH;
        failures += failed.len();
        println!(
            "{done} seeds up to {first}: {failures} failed, kept in {}",
            kept.display()
        );
    }
}
