//! What goes wrong, at random times.

use sparkray_common::ActorId;

use crate::agenda::Event;
use crate::cluster::{Cluster, DRIVER, SECOND};
use crate::network::End;
use crate::random::Random;

/// Which faults a run has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// How many, and in which time.
    pub(crate) count: u32,
    pub(crate) within: u64,
    /// Connections break or are slow.
    pub(crate) links: bool,
    /// The network between hosts is cut: shortly, or so long that there is a verdict.
    pub(crate) cuts: bool,
    pub(crate) workers: bool,
    pub(crate) raylets: bool,
    /// The head is stopped for a while.
    pub(crate) head_stops: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Break,
    Slow,
    Cut,
    KillWorker,
    EndRaylet,
    StopHead,
}

impl Cluster {
    /// Faults happen at random times from now on.
    pub(crate) fn plan_faults(&mut self, faults: Faults) {
        self.faults = faults;
        for _ in 0..faults.count {
            let at = self.random.below(faults.within);
            self.agenda.after(at, Event::Fault);
        }
    }

    pub(crate) fn next_fault(&mut self) {
        let faults = self.faults;
        let mut kinds = Vec::new();
        if faults.links {
            kinds.extend([Kind::Break, Kind::Slow]);
        }
        if faults.cuts && self.network.is_whole() {
            kinds.push(Kind::Cut);
        }
        if faults.workers {
            kinds.extend([Kind::KillWorker, Kind::KillWorker]);
        }
        if faults.raylets {
            kinds.push(Kind::EndRaylet);
        }
        if faults.head_stops && !self.head.stopped {
            kinds.push(Kind::StopHead);
        }
        let Some(kind) = self.random.choose(&kinds).copied() else {
            return;
        };
        match kind {
            Kind::Break => {
                let breakable = self.network.breakable();
                if let Some(link) = self.random.choose(&breakable).copied() {
                    self.say(|| format!("link {link} breaks"));
                    self.network.break_link(&mut self.agenda, link);
                }
            }
            Kind::Slow => {
                let breakable = self.network.breakable();
                if let Some(link) = self.random.choose(&breakable).copied() {
                    self.say(|| format!("link {link} is slow"));
                    self.network.hold(link);
                    let time = self.random.between(10_000, 4 * SECOND);
                    self.agenda.after(time, Event::LetGo { link });
                }
            }
            Kind::Cut => self.cut_somewhere(),
            Kind::KillWorker => {
                let alive: Vec<usize> = (DRIVER + 1..self.processes.len())
                    .filter(|process| self.processes[*process].alive)
                    .collect();
                if let Some(process) = self.random.choose(&alive).copied() {
                    self.losses.killed += 1;
                    self.kill_process(process);
                }
            }
            Kind::EndRaylet => {
                // Without the raylet of its host nobody can prove that a head is stopped and not cut off.
                let spared = [0, if faults.head_stops { self.head.host } else { 0 }];
                let alive: Vec<usize> = (0..self.nodes.len())
                    .filter(|node| {
                        let node = &self.nodes[*node];
                        node.is_up() && node.is_alive() && !spared.contains(&node.host)
                    })
                    .collect();
                if let Some(node) = self.random.choose(&alive).copied() {
                    self.node_ends(node, "it is killed");
                }
            }
            Kind::StopHead => {
                self.stop_head();
                let time = self.random.between(SECOND / 10, 25 * SECOND);
                self.agenda.after(time, Event::HeadContinues);
            }
        }
    }

    /// Open links between a process and an actor.
    pub(crate) fn links_between(&self, process: usize, actor: ActorId) -> Vec<usize> {
        let is_actor = |end: &End| match end {
            End::Process(other, _) => self.processes[*other].actor.is_some_and(|(id, _)| id == actor),
            _ => false,
        };
        let is_process = |end: &End| matches!(end, End::Process(other, _) if *other == process);
        let breakable = self.network.breakable().into_iter();
        let links = breakable.filter(|link| {
            let ends = &self.network.links[*link].ends;
            ends.iter().any(is_actor) && ends.iter().any(is_process)
        });
        links.collect()
    }

    /// Two hosts hear nothing of each other for a while. The driver's host and the head's are parted shortly at most: the
    /// driver would end with its node.
    fn cut_somewhere(&mut self) {
        let hosts = self.plan.hosts as u64;
        if hosts < 2 {
            return;
        }
        let one = self.random.below(hosts) as usize;
        let other = (one + 1 + self.random.below(hosts - 1) as usize) % hosts as usize;
        let is_drivers = [one, other].contains(&0) && [one, other].contains(&self.head.host);
        let (shortest, longest) = if is_drivers || self.random.chance(50) {
            (SECOND / 100, 4 * SECOND)
        } else {
            (4 * SECOND, 40 * SECOND)
        };
        let time = self.random.between(shortest, longest);
        self.losses.cuts += u32::from(time > 8 * SECOND);
        self.say(|| format!("hosts {one} and {other} are cut off for {} s", time as f64 / 1e6));
        self.network.cut(&mut self.agenda, one, other);
        self.agenda.after(time, Event::Heal);
    }
}

/// The faults of a seed.
pub(crate) fn of_seed(random: &mut Random) -> Faults {
    Faults {
        count: random.between(1, 13) as u32,
        within: random.between(2, 30) * SECOND,
        links: random.chance(60),
        cuts: random.chance(50),
        workers: random.chance(60),
        raylets: random.chance(40),
        head_stops: random.chance(25),
    }
}
