//! Links between processes: each direction keeps its order, links overtake each other, and hosts may be cut off.

use std::collections::{BTreeSet, VecDeque};

use sparkray_core_worker::simulation::CloseCause;
use sparkray_proto::{HeadMessage, HeadReply, HeadRequest, NodeMessage};
use sparkray_rpc::{Frame, Target};

use crate::agenda::{Agenda, Event};
use crate::random::Random;

/// One end of a link. Numbers are places in the cluster's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A process, by its own number of the connection.
    Process(usize, u64),
    /// A raylet, by its own number of the connection.
    Raylet(usize, u64),
    /// A caller has come to a host, and is not led on yet.
    Door(usize),
    /// A process that has not taken the connection over yet.
    Arriving(usize),
    /// A raylet that has something to do with another one.
    Exchange(usize, u64),
    /// A raylet that attaches, or has attached.
    Stream(usize),
    /// A raylet that asks the head for a client.
    Question {
        node: usize,
        connection: u64,
        correlation: u64,
        begins_job: bool,
    },
    Head,
}

/// What travels.
#[derive(Debug)]
pub(crate) enum Message {
    /// A caller says whom it wants.
    Knock(Target),
    Frame(Frame),
    ToHead(NodeMessage),
    FromHead(HeadMessage),
    Question(HeadRequest),
    Answer(HeadReply),
    /// The other side closed, or the connection broke. `by_peer`: its kernel says so.
    Closed {
        cause: CloseCause,
        by_peer: bool,
    },
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    queue: VecDeque<(u64, Message)>,
    last: u64,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) ends: [End; 2],
    hosts: [usize; 2],
    /// On the way to each end.
    ways: [Way; 2],
    /// Whether each end uses it still.
    open: [bool; 2],
    /// Nothing arrives before it is let go.
    held: bool,
    /// Typical microseconds of one way.
    delay: u64,
}

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) links: Vec<Link>,
    /// Pairs of hosts, the smaller first.
    cuts: BTreeSet<(usize, usize)>,
    random: Random,
}

pub(crate) fn reset(message: &str) -> Message {
    Message::Closed {
        cause: CloseCause::new(message),
        by_peer: false,
    }
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            links: Vec::new(),
            cuts: BTreeSet::new(),
            random: Random::new(seed),
        }
    }

    pub(crate) fn is_cut(&self, one: usize, other: usize) -> bool {
        self.cuts.contains(&(one.min(other), one.max(other)))
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.cuts.is_empty()
    }

    /// A new link between ends on these hosts.
    pub(crate) fn link(&mut self, ends: [End; 2], hosts: [usize; 2]) -> usize {
        let delay = if hosts[0] == hosts[1] {
            20
        } else if self.random.chance(8) {
            self.random.between(5_000, 120_000)
        } else {
            self.random.between(100, 800)
        };
        self.links.push(Link {
            ends,
            hosts,
            ways: [Way::default(), Way::default()],
            open: [true, true],
            held: false,
            delay,
        });
        self.links.len() - 1
    }

    pub(crate) fn is_open(&self, link: usize, side: usize) -> bool {
        self.links[link].open[side]
    }

    /// The open side of this end, with its link.
    pub(crate) fn side_of(&self, link: usize, end: End) -> Option<usize> {
        let found = &self.links[link];
        (0..2).find(|side| found.ends[*side] == end && found.open[*side])
    }

    /// Sends towards one side.
    pub(crate) fn send(&mut self, agenda: &mut Agenda, link: usize, side: usize, message: Message) {
        let found = &mut self.links[link];
        // What a closed end would have said is not said; who closed hears nothing.
        if !found.open[side] || !found.open[1 - side] {
            return;
        }
        self.put(agenda, link, side, message);
    }

    fn put(&mut self, agenda: &mut Agenda, link: usize, side: usize, message: Message) {
        let found = &mut self.links[link];
        let delay = found.delay + self.random.below(found.delay);
        let way = &mut found.ways[side];
        way.last = way.last.max(agenda.now + delay);
        way.queue.push_back((way.last, message));
        agenda.at(way.last, Event::Deliver { link, side });
    }

    /// What arrives now at one side.
    pub(crate) fn take(&mut self, now: u64, link: usize, side: usize) -> Option<Message> {
        let [one, other] = self.links[link].hosts;
        let is_cut = self.is_cut(one, other);
        let found = &mut self.links[link];
        if found.held || is_cut || !found.open[side] {
            return None;
        }
        let way = &mut found.ways[side];
        if way.queue.front()?.0 > now {
            return None;
        }
        let (_, message) = way.queue.pop_front()?;
        if matches!(message, Message::Closed { .. }) {
            found.open[side] = false;
        }
        Some(message)
    }

    /// What comes next at one side, without taking it.
    pub(crate) fn next_is_knock(&self, link: usize, side: usize) -> bool {
        let next = self.links[link].ways[side].queue.front();
        matches!(next, Some((_, Message::Knock(_))))
    }

    /// What waits at a side arrives again: it was held, or its end was not ready.
    pub(crate) fn deliver_waiting(&mut self, agenda: &mut Agenda, link: usize) {
        for side in 0..2 {
            let mut at = agenda.now;
            let found = &mut self.links[link];
            for (time, _) in &mut found.ways[side].queue {
                at = at.max(*time);
                if *time < agenda.now {
                    at += 1 + self.random.below(found.delay);
                }
                *time = at;
                agenda.at(at, Event::Deliver { link, side });
            }
            found.ways[side].last = found.ways[side].last.max(at);
        }
    }

    /// One end closes: what it has sent arrives still.
    pub(crate) fn hang_up(&mut self, agenda: &mut Agenda, link: usize, side: usize) {
        self.end(
            agenda,
            link,
            side,
            CloseCause::new("the other side closed the connection"),
            true,
        );
    }

    /// One end is refused, or its process dies.
    pub(crate) fn end(
        &mut self,
        agenda: &mut Agenda,
        link: usize,
        side: usize,
        cause: CloseCause,
        by_peer: bool,
    ) {
        let found = &mut self.links[link];
        if !std::mem::replace(&mut found.open[side], false) {
            return;
        }
        found.ways[side].queue.clear();
        if found.open[1 - side] {
            self.put(agenda, link, 1 - side, Message::Closed { cause, by_peer });
        }
    }

    /// One end hears that its connection is over, whatever is on the way to it.
    pub(crate) fn tell_end(&mut self, agenda: &mut Agenda, link: usize, side: usize, message: Message) {
        let found = &mut self.links[link];
        if found.open[side] {
            found.ways[side].queue.clear();
            self.put(agenda, link, side, message);
        }
    }

    /// A connection breaks, with all that is on the way. Both processes live.
    pub(crate) fn break_link(&mut self, agenda: &mut Agenda, link: usize) {
        for side in 0..2 {
            self.tell_end(agenda, link, side, reset("connection reset"));
        }
    }

    /// What is on the way over a link waits.
    pub(crate) fn hold(&mut self, link: usize) {
        self.links[link].held = true;
    }

    pub(crate) fn let_go(&mut self, agenda: &mut Agenda, link: usize) {
        if std::mem::replace(&mut self.links[link].held, false) {
            self.deliver_waiting(agenda, link);
        }
    }

    /// Nothing passes between two hosts any more, in silence. Ends that wait for the other side give up after a while, or
    /// never.
    pub(crate) fn cut(&mut self, agenda: &mut Agenda, one: usize, other: usize) {
        self.cuts.insert((one.min(other), one.max(other)));
        for link in 0..self.links.len() {
            for side in 0..2 {
                if self.crosses_cut(link) && self.links[link].open[side] && self.random.chance(60) {
                    let patience = self.random.between(5_000_000, 15_000_000);
                    agenda.after(patience, Event::GiveUp { link, side });
                }
            }
        }
    }

    fn crosses_cut(&self, link: usize) -> bool {
        let [one, other] = self.links[link].hosts;
        self.is_cut(one, other)
    }

    /// One end of a connection over a cut gives it up. What it has sent arrives after the cut, as far as it does.
    pub(crate) fn give_up(&mut self, agenda: &mut Agenda, link: usize, side: usize) -> Option<Message> {
        if !self.crosses_cut(link) || !self.links[link].open[side] {
            return None;
        }
        let kept = self.random.below(4) as usize;
        let found = &mut self.links[link];
        found.open[side] = false;
        found.ways[side].queue.clear();
        let other = &mut found.ways[1 - side].queue;
        other.truncate(kept);
        if found.open[1 - side] {
            self.put(agenda, link, 1 - side, reset("connection reset"));
        }
        Some(reset("no acknowledgement"))
    }

    /// The network is whole again: what was on the way arrives.
    pub(crate) fn heal(&mut self, agenda: &mut Agenda) {
        let cuts = std::mem::take(&mut self.cuts);
        for link in 0..self.links.len() {
            let [one, other] = self.links[link].hosts;
            if cuts.contains(&(one.min(other), one.max(other))) {
                self.deliver_waiting(agenda, link);
            }
        }
    }

    /// Open links between hosts: within one nothing breaks but by a death.
    pub(crate) fn breakable(&self) -> Vec<usize> {
        let open = |link: &&Link| link.open == [true, true] && link.hosts[0] != link.hosts[1];
        let links = self.links.iter().enumerate();
        links
            .filter(|(_, link)| open(link))
            .map(|(number, _)| number)
            .collect()
    }

    pub(crate) fn hosts(&self, link: usize) -> [usize; 2] {
        self.links[link].hosts
    }
}
