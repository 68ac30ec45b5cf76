//! Keys of workers: the message and the domain type.

use sparkray_common::{Language, RuntimeEnvironment, WorkerKey};

use crate::MessageError;
use crate::generated::{
    Language as LanguageMessage, RuntimeEnvironment as EnvironmentMessage, WorkerKey as KeyMessage,
};

impl From<&WorkerKey> for KeyMessage {
    fn from(key: &WorkerKey) -> Self {
        let variables = key.environment.variables().iter();
        Self {
            language: match key.language {
                Language::Python => LanguageMessage::Python.into(),
            },
            environment: (!key.environment.is_default()).then(|| EnvironmentMessage {
                env_vars: variables
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
            }),
        }
    }
}

impl KeyMessage {
    /// The key of a message's field: without one a Python worker in the node's own environment.
    pub fn read(field: Option<&Self>) -> Result<WorkerKey, MessageError> {
        let Some(message) = field else {
            return Ok(WorkerKey::default());
        };
        let language = match LanguageMessage::try_from(message.language) {
            Ok(LanguageMessage::Python) => Language::Python,
            Err(_) => return Err(MessageError::Language(message.language)),
        };
        let environment = match &message.environment {
            Some(environment) => {
                let variables = environment.env_vars.iter();
                RuntimeEnvironment::new(
                    variables
                        .map(|(name, value)| (name.clone(), value.clone()))
                        .collect(),
                )?
            }
            None => RuntimeEnvironment::default(),
        };
        Ok(WorkerKey {
            language,
            environment,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_from_its_message() {
        let environment = RuntimeEnvironment::new(
            [("A".to_owned(), "1".to_owned()), ("B".to_owned(), String::new())].into(),
        );
        for environment in [RuntimeEnvironment::default(), environment.unwrap()] {
            let key = WorkerKey {
                language: Language::Python,
                environment,
            };
            assert_eq!(KeyMessage::read(Some(&KeyMessage::from(&key))).unwrap(), key);
        }
        assert_eq!(KeyMessage::read(None).unwrap(), WorkerKey::default());
        let unknown = KeyMessage {
            language: 77,
            environment: None,
        };
        assert!(KeyMessage::read(Some(&unknown)).is_err());
        let bad = KeyMessage {
            language: 0,
            environment: Some(EnvironmentMessage {
                env_vars: [("A=B".to_owned(), String::new())].into(),
            }),
        };
        assert!(KeyMessage::read(Some(&bad)).is_err());
    }
}
