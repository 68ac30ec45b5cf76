//! What a process counts, as text for Prometheus.
//!
//! The parts of a process count in plain fields of their own, under the lock or in the loop that guards the part anyhow:
//! counting is an addition, without allocation, without atomics and without a look at labels. When somebody asks, each
//! part lists what it counted into one [`Metrics`], which becomes text in the OpenMetrics format.
//!
//! Invariants:
//! 1. Nothing of the library that makes the text is touched while something is counted. Of that library only its encoder is
//!    used, which takes no locks: a fork cannot leave one locked.
//! 2. A name is listed once.

mod histogram;
#[cfg(test)]
mod tests;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

pub use histogram::DurationHistogram;

/// What one process has counted, at one moment. Names follow Prometheus: `ray_` first, the unit last; counters get their
/// `_total` from the format. Where Ray counts the same thing, the name is Ray's.
#[derive(Debug, Default)]
pub struct Metrics {
    families: Vec<Family>,
}

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    samples: Samples,
}

#[derive(Debug)]
enum Samples {
    One(Kind, u64),
    /// The label's name, and each of its values with the number for it.
    ByLabel(Kind, &'static str, Vec<(&'static str, u64)>),
    Durations(DurationHistogram),
}

/// How a number moves.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

impl Metrics {
    /// A number that only grows.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.add(name, help, Samples::One(Kind::Counter, value));
    }

    /// Numbers that only grow, one for each value of a label.
    pub fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: &[(&'static str, u64)],
    ) {
        self.add(
            name,
            help,
            Samples::ByLabel(Kind::Counter, label, values.to_vec()),
        );
    }

    /// A number that rises and falls.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.add(name, help, Samples::One(Kind::Gauge, value));
    }

    /// Numbers that rise and fall, one for each value of a label.
    pub fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: &[(&'static str, u64)],
    ) {
        self.add(name, help, Samples::ByLabel(Kind::Gauge, label, values.to_vec()));
    }

    /// How long something took. The name ends in `_seconds`.
    pub fn durations(&mut self, name: &'static str, help: &'static str, histogram: &DurationHistogram) {
        debug_assert!(name.ends_with("_seconds"), "{name} has no unit");
        self.add(name, help, Samples::Durations(histogram.clone()));
    }

    fn add(&mut self, name: &'static str, help: &'static str, samples: Samples) {
        debug_assert!(
            self.families.iter().all(|family| family.name != name),
            "{name} is listed twice"
        );
        self.families.push(Family { name, help, samples });
    }

    /// One number, for tests of the parts that list it: that of a label's value where there is one, else `label` is empty. Of
    /// durations it is how many there were.
    pub fn value(&self, name: &str, label: &str) -> Option<u64> {
        let family = self.families.iter().find(|family| family.name == name)?;
        match &family.samples {
            Samples::One(_, value) => label.is_empty().then_some(*value),
            Samples::ByLabel(_, _, values) => {
                let found = values.iter().find(|(name, _)| *name == label);
                found.map(|(_, value)| *value)
            }
            Samples::Durations(histogram) => label.is_empty().then(|| histogram.count()),
        }
    }

    /// The text that Prometheus reads.
    pub fn render(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry).expect("a string takes all that is written to it");
        text
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for family in &self.families {
            family.encode(&mut encoder)?;
        }
        Ok(())
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let metric_type = match &self.samples {
            Samples::One(kind, _) | Samples::ByLabel(kind, ..) => kind.metric_type(),
            Samples::Durations(_) => MetricType::Histogram,
        };
        let mut encoder = encoder.encode_descriptor(self.name, self.help, None, metric_type)?;
        match &self.samples {
            Samples::One(kind, value) => kind.encode(&mut encoder, *value),
            Samples::ByLabel(kind, label, values) => {
                for (label_value, value) in values {
                    let labels = [(*label, *label_value)];
                    kind.encode(&mut encoder.encode_family(&labels)?, *value)?;
                }
                Ok(())
            }
            Samples::Durations(histogram) => encoder.encode_histogram::<NoLabelSet>(
                histogram.sum_seconds(),
                histogram.count(),
                &histogram.buckets(),
                None,
            ),
        }
    }
}

impl Kind {
    fn metric_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
        }
    }

    fn encode(self, encoder: &mut MetricEncoder, value: u64) -> fmt::Result {
        match self {
            Self::Counter => {
                let exemplar: Option<&Exemplar<NoLabelSet, u64>> = None;
                encoder.encode_counter(&value, exemplar)
            }
            Self::Gauge => encoder.encode_gauge(&value),
        }
    }
}
