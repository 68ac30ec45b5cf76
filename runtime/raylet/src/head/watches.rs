//! Which clients watch which actors, and the actors' present states. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};

use sparkray_common::ActorId;
use sparkray_proto::{ActorUpdate, FrameKind, WatchActorOnNode, node_message};

use crate::outbox::Outbox;

#[derive(Debug, Default)]
struct Watched {
    /// Connections of those who want to know.
    clients: BTreeSet<u64>,
    /// The last state that the head told.
    state: Option<ActorUpdate>,
}

/// Invariant: an actor is here while some client of this node watches it; the head knows of exactly these.
#[derive(Debug, Default)]
pub(super) struct Watches {
    actors: HashMap<ActorId, Watched>,
    by_client: HashMap<u64, HashSet<ActorId>>,
}

impl Watches {
    /// A client wants to know an actor's states: the present one at once, or as soon as the head has told it. The head
    /// answers with the present one, each time that it is asked.
    pub(super) fn watch(&mut self, connection: u64, id: ActorId, out: &mut Outbox) {
        let watched = self.actors.entry(id).or_default();
        watched.clients.insert(connection);
        self.by_client.entry(connection).or_default().insert(id);
        match &watched.state {
            Some(state) => out.send(connection, FrameKind::ActorUpdate, 0, state),
            None => out.tell_head(node_message::Message::WatchActor(WatchActorOnNode {
                actor_id: id.to_vec().into(),
            })),
        }
    }

    /// The head told a state: it is sent to those who watch.
    pub(super) fn update(&mut self, id: ActorId, update: ActorUpdate, out: &mut Outbox) {
        let Some(watched) = self.actors.get_mut(&id) else {
            return;
        };
        for connection in &watched.clients {
            out.send(*connection, FrameKind::ActorUpdate, 0, &update);
        }
        watched.state = Some(update);
    }

    /// A client is gone: the head need not tell what nobody wants to know.
    pub(super) fn client_left(&mut self, connection: u64, out: &mut Outbox) {
        for id in self.by_client.remove(&connection).unwrap_or_default() {
            let Some(watched) = self.actors.get_mut(&id) else {
                continue;
            };
            watched.clients.remove(&connection);
            if watched.clients.is_empty() {
                self.actors.remove(&id);
                out.tell_head(node_message::Message::UnwatchActor(id.to_vec().into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::{Effect, Event};

    fn told(out: &mut Outbox) -> Vec<node_message::Message> {
        std::iter::from_fn(|| out.next_event())
            .filter_map(|event| match event {
                Event::TellHead(message) => Some(*message),
                _ => None,
            })
            .collect()
    }

    fn reached(out: &mut Outbox) -> Vec<u64> {
        std::iter::from_fn(|| out.next_effect())
            .filter_map(|effect| match effect {
                Effect::Send { connection, .. } => Some(connection),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn the_head_tells_what_somebody_watches_and_no_more() {
        let mut watches = Watches::default();
        let mut out = Outbox::default();
        let id = ActorId::random();
        watches.update(id, ActorUpdate::default(), &mut out);
        watches.watch(1, id, &mut out);
        watches.watch(2, id, &mut out);
        assert_eq!(told(&mut out).len(), 2, "no state is known yet");
        watches.update(id, ActorUpdate::default(), &mut out);
        assert_eq!(reached(&mut out), vec![1, 2]);
        watches.watch(3, id, &mut out);
        assert_eq!(reached(&mut out), vec![3]);
        for connection in [1, 2] {
            watches.client_left(connection, &mut out);
        }
        assert!(told(&mut out).is_empty());
        watches.client_left(3, &mut out);
        let message = told(&mut out).remove(0);
        assert!(matches!(message, node_message::Message::UnwatchActor(_)));
        assert!(watches.actors.is_empty() && watches.by_client.is_empty());
    }
}
