//! A head and raylets in one process, real sockets, and a stand-in zygote that forks real processes. Each test has a
//! process of its own.

#![allow(clippy::unwrap_used, reason = "a test says by it what it expects")]

mod actors;
mod ends;
mod leases;
mod objects;
mod owners;
mod support;
