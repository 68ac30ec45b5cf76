//! Amounts of named resources (`CPU`, `memory`, custom ones), in steps of 1/10000 as in Ray.

use std::collections::BTreeMap;

const STEPS: f64 = 10_000.0;

/// Between a resource's name and the bundle that it was reserved for, as in Ray.
pub(crate) const GROUP_INFIX: &str = "_group_";

/// An amount that cannot be a resource.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("resource {name} cannot be {amount}: use a number of at least 0")]
pub struct ResourceError {
    /// The resource.
    pub name: String,
    /// The refused amount.
    pub amount: f64,
}

/// Amounts of resources; a missing one is 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct ResourceSet(BTreeMap<String, i64>);

impl ResourceSet {
    /// From units, for example `{"CPU": 0.5}`.
    pub fn from_units<I: IntoIterator<Item = (String, f64)>>(units: I) -> Result<Self, ResourceError> {
        let mut amounts = BTreeMap::new();
        for (name, amount) in units {
            if !amount.is_finite() || amount < 0.0 {
                return Err(ResourceError { name, amount });
            }
            let steps = (amount * STEPS).round() as i64;
            if steps > 0 {
                amounts.insert(name, steps);
            }
        }
        Ok(Self(amounts))
    }

    /// As units, for messages and users.
    pub fn to_units(&self) -> BTreeMap<String, f64> {
        self.0
            .iter()
            .map(|(name, steps)| (name.clone(), *steps as f64 / STEPS))
            .collect()
    }

    /// Units of one resource.
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).map_or(0.0, |steps| *steps as f64 / STEPS)
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `self` holds at least `request`.
    pub fn covers(&self, request: &Self) -> bool {
        request
            .0
            .iter()
            .all(|(name, steps)| self.0.get(name).copied().unwrap_or(0) >= *steps)
    }

    /// Takes `request` away. Amounts may fall below 0 when a blocked worker that lent its CPUs resumes.
    pub fn subtract(&mut self, request: &Self) {
        for (name, steps) in &request.0 {
            *self.0.entry(name.clone()).or_insert(0) -= steps;
        }
    }

    /// Gives `request` back.
    pub fn add(&mut self, request: &Self) {
        for (name, steps) in &request.0 {
            *self.0.entry(name.clone()).or_insert(0) += steps;
        }
    }

    /// Takes away what exists no more: a name of which nothing is left is gone.
    pub fn remove(&mut self, amounts: &Self) {
        self.subtract(amounts);
        self.0
            .retain(|name, steps| *steps != 0 || !amounts.0.contains_key(name));
    }

    /// The same amounts under other names.
    #[must_use]
    pub fn renamed(&self, rename: impl Fn(&str) -> String) -> Self {
        Self(
            self.0
                .iter()
                .map(|(name, steps)| (rename(name), *steps))
                .collect(),
        )
    }

    /// The largest share of `total` that is in use when `self` is available, 0 to 1. What bundles hold counts once, as what
    /// it was before: how much of a bundle is in use says nothing about the node.
    pub fn utilization(&self, total: &Self) -> f64 {
        let mut highest: f64 = 0.0;
        for (name, steps) in &total.0 {
            if *steps > 0 && !name.contains(GROUP_INFIX) {
                let available = self.0.get(name).copied().unwrap_or(0);
                highest = highest.max(1.0 - available as f64 / *steps as f64);
            }
        }
        highest
    }

    /// Only the `CPU` part, which a blocked worker lends.
    pub fn cpu_only(&self) -> Self {
        Self(
            self.0
                .iter()
                .filter(|(name, _)| *name == "CPU")
                .map(|(name, steps)| (name.clone(), *steps))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(units: &[(&str, f64)]) -> ResourceSet {
        ResourceSet::from_units(units.iter().map(|(name, amount)| ((*name).to_owned(), *amount))).unwrap()
    }

    #[test]
    fn a_request_fits_only_when_every_resource_does() {
        let available = set(&[("CPU", 2.0), ("GPU", 1.0)]);
        assert!(available.covers(&set(&[("CPU", 2.0)])));
        assert!(!available.covers(&set(&[("CPU", 2.5)])));
        assert!(!available.covers(&set(&[("TPU", 0.1)])));
        assert!(ResourceSet::from_units([("CPU".to_owned(), -1.0)]).is_err());
        assert!(ResourceSet::from_units([("CPU".to_owned(), f64::NAN)]).is_err());
    }

    #[test]
    fn what_is_removed_leaves_no_name_behind() {
        let mut total = set(&[("CPU", 2.0), ("CPU_group_x", 1.0)]);
        total.subtract(&set(&[("CPU", 2.0)]));
        total.remove(&set(&[("CPU_group_x", 1.0)]));
        assert_eq!(total.to_units(), BTreeMap::from([("CPU".to_owned(), 0.0)]));
    }

    #[test]
    fn what_bundles_hold_does_not_count_twice() {
        let total = set(&[("CPU", 4.0), ("CPU_group_x", 1.0)]);
        let available = set(&[("CPU", 3.0)]);
        assert!((available.utilization(&total) - 0.25).abs() < f64::EPSILON);
    }

    proptest! {
        #[test]
        fn taking_and_giving_back_changes_nothing(cpu in 0_u32..1000, asked in 0_u32..1000) {
            let total = set(&[("CPU", f64::from(cpu) / 10.0)]);
            let request = set(&[("CPU", f64::from(asked) / 10.0)]);
            let mut available = total.clone();
            available.subtract(&request);
            available.add(&request);
            prop_assert!(available.covers(&total) && total.covers(&available));
        }
    }
}
