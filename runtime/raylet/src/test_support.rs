//! Small helpers of the unit tests.

use sparkray_common::ResourceSet;

/// Resources from pairs.
pub(crate) fn resources(units: &[(&str, f64)]) -> ResourceSet {
    ResourceSet::from_units(units.iter().map(|(name, amount)| ((*name).to_owned(), *amount))).unwrap()
}
