//! Calling another process, for tokio.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::RpcError;
use crate::exact_io::{read_exact, write_all};
use crate::handshake::{ClientHandshake, Identity, SERVER_PROOF_LEN, Target};
use crate::noise::NOISE_MESSAGE_LEN;
use crate::secured_socket::{SecuredSocket, Securing};
use crate::socket::{Endpoint, connect_nonblocking, register, take_socket_error};

/// A callee that has too many callers at once closes the oldest of those that have not proved themselves: such a one
/// tries again after this time, which doubles, so often.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const ATTEMPTS: u32 = 6;

/// Connects to `target` at `endpoint`, goes through the handshake and agrees on keys. The socket is non-blocking.
pub async fn dial(
    identity: &Identity,
    endpoint: &Endpoint,
    target: Target,
    deadline: Duration,
) -> Result<SecuredSocket, RpcError> {
    match tokio::time::timeout(deadline, dial_again(identity, endpoint, target)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(RpcError::Deadline {
            peer: endpoint.to_string(),
            seconds: deadline.as_secs_f64(),
        }),
    }
}

/// Tries again when the callee closed the connection before it said anything of the caller.
async fn dial_again(
    identity: &Identity,
    endpoint: &Endpoint,
    target: Target,
) -> Result<SecuredSocket, RpcError> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..ATTEMPTS {
        match shake_hands(identity, endpoint, target).await {
            Err(error) if was_pushed_out(&error) => tokio::time::sleep(pause).await,
            outcome => return outcome,
        }
        pause *= 2;
    }
    shake_hands(identity, endpoint, target).await
}

fn was_pushed_out(error: &RpcError) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error, RpcError::Io { source, .. }
        if matches!(source.kind(), UnexpectedEof | ConnectionReset | BrokenPipe))
}

async fn shake_hands(
    identity: &Identity,
    endpoint: &Endpoint,
    target: Target,
) -> Result<SecuredSocket, RpcError> {
    let failed = |source| RpcError::io("connect to", endpoint, source);
    let resolved = resolve(endpoint).await?;
    let socket = register(connect_nonblocking(&resolved).map_err(failed)?).map_err(failed)?;
    drop(socket.writable().await.map_err(failed)?);
    take_socket_error(socket.as_fd()).map_err(failed)?;

    let handshake = ClientHandshake::new(identity, target);
    write_all(&socket, handshake.hello()).await.map_err(failed)?;
    let mut proof = [0; SERVER_PROOF_LEN];
    read_exact(&socket, &mut proof).await.map_err(failed)?;
    let (answer, agreement) = handshake.answer(&proof).ok_or_else(|| RpcError::WrongToken {
        peer: endpoint.to_string(),
    })?;
    let mut last = answer.to_vec();
    let securing = Securing::begin(handshake.token(), &agreement, &mut last)?;
    write_all(&socket, &last).await.map_err(failed)?;
    let mut verdict = [0];
    read_exact(&socket, &mut verdict).await.map_err(failed)?;
    ClientHandshake::verdict(verdict[0]).map_err(|refusal| RpcError::Refused {
        peer: endpoint.to_string(),
        refusal,
    })?;
    let records = match securing {
        Securing::Done(records) => records,
        Securing::Negotiating(negotiation) => {
            let mut answer = [0; NOISE_MESSAGE_LEN];
            read_exact(&socket, &mut answer).await.map_err(failed)?;
            Some(negotiation.finish(&answer)?)
        }
    };
    Ok(SecuredSocket {
        socket: socket.into_inner(),
        records,
    })
}

/// Resolves a host name off this thread, because the resolver blocks.
async fn resolve(endpoint: &Endpoint) -> Result<Endpoint, RpcError> {
    let Endpoint::Tcp(address) = endpoint else {
        return Ok(endpoint.clone());
    };
    let failed = |source| RpcError::io("resolve", endpoint, source);
    let mut found = tokio::net::lookup_host(address).await.map_err(failed)?;
    let first = found
        .next()
        .ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    Ok(Endpoint::Tcp(first.to_string()))
}
