//! A connection past its handshake, as its end points drive it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use sparkray_common::ClusterToken;

use crate::RpcError;
use crate::agreement::{Agreement, Protection};
use crate::exact_io::{read_exact, write_all};
use crate::noise::{NOISE_MESSAGE_LEN, Negotiation, answer_negotiation};
use crate::records::Records;
use crate::socket::register;

/// A socket, and what protects the bytes on it.
#[derive(Debug)]
pub struct SecuredSocket {
    /// Non-blocking.
    pub socket: OwnedFd,
    /// `None`: bytes as they are.
    pub records: Option<Records>,
}

impl From<OwnedFd> for SecuredSocket {
    /// A connection inside a node.
    fn from(socket: OwnedFd) -> Self {
        Self {
            socket,
            records: None,
        }
    }
}

/// The caller's end, once it has read the callee's proof.
#[derive(Debug)]
pub enum Securing {
    /// Nothing is left to be agreed.
    Done(Option<Records>),
    /// After the verdict, the callee's message follows.
    Negotiating(Negotiation),
}

impl Securing {
    /// Appends what is to be sent together with the caller's proof.
    pub fn begin(
        token: &ClusterToken,
        agreement: &Agreement,
        last_message: &mut Vec<u8>,
    ) -> Result<Self, RpcError> {
        Ok(match agreement.protection() {
            Protection::Plain => Self::Done(None),
            Protection::Checked => Self::Done(Some(Records::checked())),
            Protection::Sealed => {
                let (negotiation, message) = Negotiation::begin(token, agreement)?;
                last_message.extend_from_slice(&message);
                Self::Negotiating(negotiation)
            }
        })
    }
}

/// The callee's end of a socket that was accepted here or handed on by the raylet that did.
pub async fn take_over(
    socket: OwnedFd,
    agreement: &Agreement,
    token: &ClusterToken,
    deadline: Duration,
) -> Result<SecuredSocket, RpcError> {
    let failed = |source| RpcError::io("take over the connection of", "a peer", source);
    let records = match agreement.protection() {
        Protection::Plain => None,
        Protection::Checked => Some(Records::checked()),
        Protection::Sealed => {
            let socket = register(socket).map_err(failed)?;
            let negotiate = async {
                let mut message = [0; NOISE_MESSAGE_LEN];
                read_exact(&socket, &mut message).await.map_err(failed)?;
                let (records, answer) = answer_negotiation(token, agreement, &message)?;
                write_all(&socket, &answer).await.map_err(failed)?;
                Ok::<Records, RpcError>(records)
            };
            let records =
                tokio::time::timeout(deadline, negotiate)
                    .await
                    .map_err(|_| RpcError::Deadline {
                        peer: "a peer".to_owned(),
                        seconds: deadline.as_secs_f64(),
                    })??;
            return Ok(SecuredSocket {
                socket: socket.into_inner(),
                records: Some(records),
            });
        }
    };
    Ok(SecuredSocket { socket, records })
}
