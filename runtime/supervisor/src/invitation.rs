//! The three things that Spark carries from the driver to the executors.

use std::fmt;

use sparkray_common::{ClusterId, ClusterToken, ErrorCode};
use sparkray_proto::bridge;
use sparkray_rpc::Identity;

use crate::SupervisorError;

/// Where the driver's manager listens, and how to prove oneself to it. Holds a token: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// `host:port`.
    pub address: String,
    /// Hexadecimal [`ClusterId`] of the Spark application's managers, not of any Ray cluster.
    pub application_id: String,
    /// Hexadecimal [`ClusterToken`] for that; none: who is invited knows it.
    pub token: Option<String>,
}

impl From<&Invitation> for bridge::Invitation {
    fn from(invitation: &Invitation) -> Self {
        Self {
            address: invitation.address.clone(),
            application_id: invitation.application_id.clone(),
            token: invitation.token.clone(),
            nonce: String::new(),
        }
    }
}

impl Invitation {
    pub(crate) fn identity(&self) -> Result<Identity, SupervisorError> {
        let refuse = |what: &str| {
            SupervisorError::refused(ErrorCode::InvalidArgument, format!("{what} is not hexadecimal"))
        };
        let cluster_id =
            ClusterId::from_hex(&self.application_id).map_err(|_| refuse("the application id"))?;
        let token = self.token.as_deref().and_then(ClusterToken::from_hex);
        let token = token.ok_or_else(|| refuse("the application token"))?;
        Ok(Identity {
            cluster_id,
            token,
            head_epoch: 0,
        })
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Invitation")
            .field("address", &self.address)
            .field("application_id", &self.application_id)
            .finish_non_exhaustive()
    }
}
