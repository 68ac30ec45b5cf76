//! One simulation of the whole runtime: the head, raylets and core workers as they are, with a virtual clock and a network
//! whose every delay, cut and death follows from a seed. See `docs/testing.md`.
//!
//! `SEED=17 cargo test --release -p sparkray-simulation seeds` runs one seed again, `TRACE=1` says what happens in it.

#[cfg(test)]
mod agenda;
#[cfg(test)]
mod calls;
#[cfg(test)]
mod cancels;
#[cfg(test)]
mod checks;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod exchanges;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod groups;
#[cfg(test)]
mod head;
#[cfg(test)]
mod network;
#[cfg(test)]
mod node;
#[cfg(test)]
mod process;
#[cfg(test)]
mod program;
#[cfg(test)]
mod random;
#[cfg(test)]
mod runs;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod stream;
#[cfg(test)]
mod trace;
#[cfg(test)]
mod value;
