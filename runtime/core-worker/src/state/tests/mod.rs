//! Several core workers with a network, raylets and a head that are simulated: every frame is delivered when the test's
//! random numbers say so, connections break and processes die, and everything can be seen.

mod actors;
mod cancelling;
mod deaths;
mod metrics;
mod pauses;
mod process;
mod properties;
mod raylet;
mod references;
mod simulation;
mod tasks;
mod unhandled;
mod value;

use simulation::{DRIVER, Simulation};
