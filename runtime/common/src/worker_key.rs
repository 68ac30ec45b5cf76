//! Which worker process can run something.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What a worker process is from its birth on; work goes only to workers with its own key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct WorkerKey {
    /// What it runs.
    pub language: Language,
    /// What surrounds it.
    pub environment: RuntimeEnvironment,
}

/// Languages of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Language {
    /// Forked from a zygote.
    #[default]
    Python,
}

/// What a process has around it that its program asked for (Ray: `runtime_env`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RuntimeEnvironment {
    // Shared: each task and each lease request carries it.
    variables: Arc<BTreeMap<String, String>>,
}

/// A variable that no process can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "environment variable {0:?}: a name is not empty, has neither '=' nor a NUL and does not begin with SPARKRAY_, and a \
     value has no NUL"
)]
pub struct BadVariable(String);

impl RuntimeEnvironment {
    /// An environment with these variables besides those of the node.
    pub fn new(variables: BTreeMap<String, String>) -> Result<Self, BadVariable> {
        let is_bad = |(name, value): &(&String, &String)| {
            let is_ours = name.starts_with("SPARKRAY_");
            name.is_empty() || is_ours || name.contains(['=', '\0']) || value.contains('\0')
        };
        if let Some((name, _)) = variables.iter().find(is_bad) {
            return Err(BadVariable(name.clone()));
        }
        Ok(Self {
            variables: Arc::new(variables),
        })
    }

    /// The variables.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// Whether it is that of the node.
    pub fn is_default(&self) -> bool {
        self.variables.is_empty()
    }
}

/// Names only: values may be secrets.
impl std::fmt::Debug for RuntimeEnvironment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_set().entries(self.variables.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_process_can_have_is_refused() {
        let one = |name: &str, value: &str| {
            RuntimeEnvironment::new([(name.to_owned(), value.to_owned())].into())
                .map(|found| found.is_default())
        };
        assert_eq!(one("A", "x=y"), Ok(false));
        for (name, value) in [
            ("", "x"),
            ("A=B", "x"),
            ("A\0", "x"),
            ("A", "x\0"),
            ("SPARKRAY_A", "x"),
        ] {
            assert_eq!(one(name, value), Err(BadVariable(name.to_owned())));
        }
        assert!(RuntimeEnvironment::default().is_default());
        let secret = RuntimeEnvironment::new([("A".to_owned(), "secret".to_owned())].into()).unwrap();
        assert_eq!(format!("{secret:?}"), r#"{"A"}"#);
    }
}
