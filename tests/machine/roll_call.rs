//! `-bootstrap` (PROTOCOL rule 16): machines that are started with one list begin one cluster.
//!
//! The machines that wait are real ones. The cluster that answers them is a model: a founder, and
//! members that have its data or wait for it.
use super::rig::*;
use tern::core::machine::*;
use tern::core::raft::PeerId;
use tern::core::timer::Now;
use tern_support::rng::Rng;

const TICK_US: u64 = 100_000;
/// How long a call that is not answered takes.
const TIMEOUT_US: u64 = 3 * SECOND_US;

/// The cluster on a disk.
#[derive(Clone, Copy)]
struct Place {
    /// The founder's place in the list.
    founder: usize,
    /// The number of the founding.
    cluster: usize,
    /// Entries or a snapshot have arrived.
    has_data: bool,
}

enum Process {
    Down,
    Waiting(Box<Machine>),
    Member,
}

struct Host {
    process: Process,
    /// Rises with each start.
    epoch: u64,
    disk: Option<Place>,
    /// The cluster that has admitted it, until it knows.
    admitted_to: Option<Place>,
    is_cut: bool,
    facts: Vec<Fact>,
}

enum Flight {
    Ask { from: usize, call: Call },
    Tell { to: usize, id: CallId, reply: Reply },
}

struct World {
    hosts: Vec<Host>,
    list: Vec<Box<str>>,
    /// The time of arrival, the epoch of the process that asked, and the call or its reply.
    flights: Vec<(u64, u64, Flight)>,
    now_us: u64,
    foundings: usize,
    next_id: u64,
    delay_us_max: u64,
    rng: Rng,
}

fn url(place: usize) -> Box<str> {
    settings(place as u16 + 1).peer_url
}

fn answered(answer: CallAnswer) -> Reply {
    Reply::Answered {
        foreign: None,
        answer: Ok(answer),
    }
}

fn refused() -> Reply {
    Reply::Answered {
        foreign: None,
        answer: Err(CallRefusal {
            reason: RefusalReason::Other,
            why: "it knows no leader".into(),
        }),
    }
}

fn silent() -> Reply {
    Reply::Failed {
        why: "no answer".into(),
    }
}

impl World {
    fn new(count: usize, seed: u64) -> World {
        let host = |_| Host {
            process: Process::Down,
            epoch: 0,
            disk: None,
            admitted_to: None,
            is_cut: false,
            facts: Vec::new(),
        };
        World {
            hosts: (0..count).map(host).collect(),
            list: (0..count).map(url).collect(),
            flights: Vec::new(),
            now_us: SECOND_US,
            foundings: 0,
            next_id: 2,
            delay_us_max: TICK_US,
            rng: Rng::new(seed),
        }
    }

    fn now(&self) -> Now {
        Now {
            mono_us: self.now_us,
            wall_ns: EPOCH_NS + self.now_us * 1_000,
        }
    }

    fn start(&mut self, place: usize) {
        let list = self.list.clone();
        self.start_with(place, list);
    }

    /// A process starts with this list, if none runs.
    fn start_with(&mut self, place: usize, list: Vec<Box<str>>) {
        let host = &mut self.hosts[place];
        if !matches!(host.process, Process::Down) {
            return;
        }
        host.epoch += 1;
        host.process = match host.disk {
            Some(_) => Process::Member,
            None => {
                let search = Search {
                    peers: list,
                    ..Search::default()
                };
                let settings = settings(place as u16 + 1);
                let nothing = Recovered::nothing(None, 70 + place as u64);
                let seed = self.rng.next_u64();
                let machine = Machine::await_others(settings, nothing, search, seed);
                assert!(machine.listens_to_peers() && !machine.listens());
                Process::Waiting(Box::new(machine))
            }
        };
    }

    fn crash(&mut self, place: usize, loses_disk: bool) {
        let host = &mut self.hosts[place];
        host.epoch += 1;
        host.process = Process::Down;
        host.admitted_to = None;
        if loses_disk {
            host.disk = None;
        }
    }

    /// The founder that leads this cluster now and can be reached from `from`.
    fn leads(&self, place: Place, from: usize) -> bool {
        let founder = &self.hosts[place.founder];
        let is_up = matches!(founder.process, Process::Member);
        let has_cluster = founder.disk.is_some_and(|d| d.cluster == place.cluster);
        is_up && has_cluster && self.reaches(from, place.founder)
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        from == to || !(self.hosts[from].is_cut || self.hosts[to].is_cut)
    }

    fn reply_of(&mut self, from: usize, call: &Call) -> Reply {
        let place = self.list.iter().position(|url| *url == call.base);
        let Some(to) = place.filter(|to| self.reaches(from, *to)) else {
            return silent();
        };
        let now = self.now();
        match &self.hosts[to].process {
            Process::Down => silent(),
            Process::Waiting(machine) => match call.question {
                Question::Bootstrap => match machine.query(now, &Query::Bootstrap) {
                    Some(Outcome::Bootstrap(attendance)) => {
                        answered(CallAnswer::Bootstrap(attendance))
                    }
                    other => panic!("{other:?}"),
                },
                Question::Version => answered(CallAnswer::Version(2)),
                _ => refused(),
            },
            Process::Member => self.reply_of_member(from, to, call),
        }
    }

    fn reply_of_member(&mut self, from: usize, to: usize, call: &Call) -> Reply {
        let place = self.hosts[to].disk.expect("a member has a place");
        match call.question {
            Question::Bootstrap => answered(CallAnswer::Bootstrap(None)),
            Question::Version => answered(CallAnswer::Version(2)),
            _ if !self.leads(place, to) => refused(),
            Question::Config => answered(CallAnswer::Config(ClusterRoom {
                active_size: 9,
                sync_interval_ms: 5_000,
            })),
            Question::Join(_) => {
                self.next_id += 1;
                self.hosts[from].admitted_to = Some(Place {
                    has_data: false,
                    ..place
                });
                answered(CallAnswer::Joined(PeerId(self.next_id)))
            }
            _ => {
                let settings = settings(place.founder as u16 + 1);
                answered(CallAnswer::Machines(vec![MachineInfo {
                    name: settings.name,
                    state: Role::Leader,
                    client_url: settings.client_url,
                    peer_url: settings.peer_url,
                }]))
            }
        }
    }

    fn tick(&mut self) {
        self.now_us += TICK_US;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.flights)
            .into_iter()
            .partition(|(at_us, ..)| *at_us <= self.now_us);
        self.flights = later;
        for (_, epoch, flight) in due {
            self.arrive(epoch, flight);
        }
        for place in 0..self.hosts.len() {
            self.turn(place);
            self.replicate(place);
        }
    }

    fn arrive(&mut self, epoch: u64, flight: Flight) {
        match flight {
            Flight::Ask { from, call } => {
                if self.hosts[from].epoch != epoch {
                    return;
                }
                let reply = self.reply_of(from, &call);
                let delay_us = match reply {
                    Reply::Failed { .. } => TIMEOUT_US,
                    Reply::Answered { .. } => self.rng.below(self.delay_us_max),
                };
                let (to, id) = (from, call.id);
                let at_us = self.now_us + delay_us;
                self.flights
                    .push((at_us, epoch, Flight::Tell { to, id, reply }));
            }
            Flight::Tell { to, id, reply } => {
                let now = self.now();
                let host = &mut self.hosts[to];
                if host.epoch == epoch
                    && let Process::Waiting(machine) = &mut host.process
                {
                    machine.on_reply(now, id, reply);
                }
            }
        }
    }

    fn turn(&mut self, place: usize) {
        let now = self.now();
        let host = &mut self.hosts[place];
        let Process::Waiting(machine) = &mut host.process else {
            return;
        };
        if machine
            .next_deadline()
            .is_some_and(|due| due <= now.mono_us)
        {
            machine.on_time(now);
        }
        let mut outputs = Outputs::default();
        machine.advance(now, &mut outputs);
        host.facts.append(&mut outputs.facts);
        let epoch = host.epoch;
        let has_id = machine.id().is_some();
        for call in outputs.calls {
            let at_us = now.mono_us + self.rng.below(self.delay_us_max);
            self.flights
                .push((at_us, epoch, Flight::Ask { from: place, call }));
        }
        if outputs
            .orders
            .iter()
            .any(|order| matches!(order, Order::Found))
        {
            self.found(place);
        } else if has_id {
            let host = &mut self.hosts[place];
            host.disk = host.admitted_to.take();
            host.process = Process::Member;
        }
    }

    fn found(&mut self, place: usize) {
        let has_data = |host: &Host| host.disk.is_some_and(|disk| disk.has_data);
        let others = self.hosts.iter().filter(|host| has_data(host)).count();
        assert_eq!(others, 0, "a machine of the list has data");
        self.foundings += 1;
        self.hosts[place].process = Process::Member;
        self.hosts[place].disk = Some(Place {
            founder: place,
            cluster: self.foundings,
            has_data: true,
        });
    }

    /// A member without data gets it from the founder, or joins the cluster that there is.
    fn replicate(&mut self, place: usize) {
        let lacks_data = |disk: &Place| !disk.has_data;
        let is_up = matches!(self.hosts[place].process, Process::Member);
        let Some(own) = self.hosts[place].disk.filter(lacks_data).filter(|_| is_up) else {
            return;
        };
        if !self.rng.percent(20) {
            return;
        }
        let founded = self.hosts.iter().filter_map(|host| host.disk);
        let mut founded: Vec<Place> = founded.filter(|disk| disk.has_data).collect();
        founded.retain(|disk| self.leads(*disk, place));
        if self.leads(own, place) {
            self.hosts[place].disk = Some(Place {
                has_data: true,
                ..own
            });
        } else if let Some(other) = founded.first() {
            self.hosts[place].disk = Some(Place {
                has_data: false,
                ..*other
            });
        }
    }

    fn pass(&mut self, us: u64) {
        for _ in 0..us / TICK_US {
            self.tick();
        }
    }

    /// Whether all are members of one cluster.
    fn is_one(&self) -> bool {
        let clusters = self.hosts.iter().map(|host| host.disk.map(|d| d.cluster));
        let first = self.hosts[0].disk.map(|d| d.cluster);
        first.is_some() && clusters.into_iter().all(|cluster| cluster == first)
    }

    fn says(&self, place: usize, text: &str) -> bool {
        self.hosts[place].facts.iter().any(|fact| match fact {
            Fact::BootstrapWaits { urls: why } | Fact::BootstrapDiffers { why } => {
                why.contains(text)
            }
            _ => false,
        })
    }
}

#[test]
fn protocol_16_the_first_of_the_list_founds_once_all_wait() {
    let mut world = World::new(3, 1);
    world.start(0);
    world.start(2);
    world.pass(30 * SECOND_US);
    assert_eq!(world.foundings, 0);
    assert!(world.says(0, &url(1)) && world.says(2, &url(1)));
    let lines = |world: &World| world.hosts[0].facts.len();
    assert_eq!(lines(&world), 1, "{:?}", world.hosts[0].facts);
    world.start(1);
    world.pass(10 * SECOND_US);
    assert!(world.is_one() && world.foundings == 1);
    assert_eq!(world.hosts[1].disk.map(|disk| disk.founder), Some(0));
}

#[test]
fn protocol_16_a_list_of_one_founds_at_once() {
    let mut world = World::new(1, 1);
    world.start(0);
    world.pass(2 * SECOND_US);
    assert_eq!(world.foundings, 1);
}

/// Whatever differs is named, and no machine founds the cluster.
#[test]
fn protocol_16_lists_that_differ_found_nothing() {
    let mut world = World::new(3, 1);
    world.start(0);
    world.start(1);
    let two = vec![url(2), url(0)];
    world.start_with(2, two);
    world.pass(10 * SECOND_US);
    assert_eq!(world.foundings, 0);
    assert!(world.says(0, "another list") && world.says(0, &url(2)));
    assert!(world.says(2, "another list"));
    world.crash(2, false);
    world.start(2);
    world.pass(10 * SECOND_US);
    assert!(world.is_one());
}

/// Two addresses of the list lead to one machine. No number of another process stands for it.
#[test]
fn protocol_16_a_machine_that_is_named_twice_founds_nothing() {
    let mut roll = Roll::new(&[url(0), url(1)]);
    let calls = roll.round();
    let own = roll.own();
    roll.answer(&calls[0], own.clone());
    roll.answer(&calls[1], own);
    roll.founds_nothing("are the same machine");
}

/// Another process answers at the first address: a machine that was replaced, or the same name in
/// two networks.
#[test]
fn protocol_16_an_address_that_leads_to_another_process_founds_nothing() {
    let mut roll = Roll::new(&[url(0), url(1)]);
    let own = roll.own();
    let calls = roll.round();
    for (number, call) in calls.iter().enumerate() {
        let attendance = Attendance {
            number: 1_000 + number as u64,
            list: own.list.clone(),
        };
        roll.answer(call, attendance);
    }
    roll.founds_nothing("none of the addresses");
}

/// The process stood still between the answers: they may no longer be true.
#[test]
fn protocol_16_a_round_that_took_too_long_founds_nothing() {
    let mut roll = Roll::new(&[url(0), url(1)]);
    let own = roll.own();
    let calls = roll.round();
    let other = Attendance {
        number: 7,
        list: own.list.clone(),
    };
    roll.answer(&calls[1], other.clone());
    roll.now.mono_us += 6 * SECOND_US;
    roll.answer(&calls[0], own.clone());
    assert!(!roll.founds());
    let calls = roll.round();
    roll.answer(&calls[1], other);
    roll.answer(&calls[0], own);
    assert!(roll.founds());
}

/// A member of a cluster, or a standby, answers that it does not wait.
#[test]
fn protocol_16_a_machine_that_does_not_wait_is_asked_to_admit() {
    let mut roll = Roll::new(&[url(0), url(1), url(2)]);
    let own = roll.own();
    let calls = roll.round();
    roll.answer(&calls[0], own);
    roll.machine
        .on_reply(roll.now, calls[1].id, answered(CallAnswer::Bootstrap(None)));
    roll.machine.on_reply(roll.now, calls[2].id, refused());
    assert_eq!(roll.call().question, Question::Version);
}

/// The machine lost its disk. Of its list, the member has moved and does not answer, and the only
/// one that answers is a standby, which names the leader at its new address.
#[test]
fn protocol_16_a_standby_of_the_list_names_the_leader() {
    let mut roll = Roll::new(&[url(0), url(1), url(2)]);
    let own = roll.own();
    let calls = roll.round();
    roll.answer(&calls[0], own);
    roll.machine.on_reply(roll.now, calls[1].id, silent());
    roll.machine.on_reply(roll.now, calls[2].id, refused());
    let leader: Box<str> = "http://127.0.0.1:7009".into();
    let room = ClusterRoom {
        active_size: 9,
        sync_interval_ms: 5_000,
    };
    let members = vec![MachineInfo {
        name: "node2".into(),
        state: Role::Leader,
        client_url: "http://127.0.0.1:4009".into(),
        peer_url: leader.clone(),
    }];
    let steps = [
        (url(1), silent()),
        (url(2), refused()),
        (url(2), answered(CallAnswer::Leader(leader.clone()))),
        (leader.clone(), answered(CallAnswer::Version(2))),
        (leader.clone(), answered(CallAnswer::Machines(members))),
        (leader.clone(), answered(CallAnswer::Config(room))),
        (leader, answered(CallAnswer::Joined(PeerId(4)))),
    ];
    for (base, reply) in steps {
        let call = roll.call();
        assert_eq!(call.base, base);
        roll.machine.on_reply(roll.now, call.id, reply);
    }
    assert_eq!(roll.machine.id(), Some(PeerId(4)));
}

/// Machines that start, crash, lose their disks, are cut off and are slow, in random order.
#[test]
fn protocol_16_one_list_makes_one_cluster() {
    let seeds = std::env::var("ROLL_CALL_SEEDS").ok();
    let seeds = seeds.map_or(200, |text| text.parse().expect("a number"));
    let mut settled = 0;
    for seed in 0..seeds {
        settled += u64::from(random_start(seed));
    }
    assert!(settled * 2 > seeds, "{settled} of {seeds}");
}

/// Returns whether all came together in the end. A cluster that lost its only voter while others
/// had joined it is left to the operator.
fn random_start(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let count = *rng.pick(&[1, 2, 3, 5]);
    let mut world = World::new(count, rng.next_u64());
    world.delay_us_max = *rng.pick(&[TICK_US, SECOND_US, 2 * SECOND_US]);
    let (loses, cuts) = (rng.percent(50), rng.percent(50));
    for _ in 0..300 {
        let place = rng.index(count);
        match rng.below(20) {
            0..=4 => world.start(place),
            5 => world.crash(place, false),
            6 if loses => world.crash(place, true),
            7 if cuts => world.hosts[place].is_cut = true,
            8..=9 => world.hosts[place].is_cut = false,
            _ => {}
        }
        world.tick();
    }
    for host in &mut world.hosts {
        host.is_cut = false;
    }
    for place in 0..count {
        world.start(place);
    }
    world.pass(60 * SECOND_US);
    let lost = world.hosts.iter().filter_map(|host| host.disk);
    let is_lost = lost.into_iter().any(|disk| !world.leads(disk, 0));
    assert!(
        is_lost || world.is_one(),
        "seed {seed}: {} foundings",
        world.foundings
    );
    !is_lost
}

/// One machine; the test answers its calls by hand.
struct Roll {
    machine: Machine,
    now: Now,
    facts: Vec<Fact>,
}

impl Roll {
    fn new(list: &[Box<str>]) -> Roll {
        let search = Search {
            peers: list.to_vec(),
            ..Search::default()
        };
        let nothing = Recovered::nothing(None, 77);
        Roll {
            machine: Machine::await_others(settings(1), nothing, search, 5),
            now: Now {
                mono_us: SECOND_US,
                wall_ns: EPOCH_NS,
            },
            facts: Vec::new(),
        }
    }

    fn own(&self) -> Attendance {
        match self.machine.query(self.now, &Query::Bootstrap) {
            Some(Outcome::Bootstrap(Some(attendance))) => attendance,
            other => panic!("{other:?}"),
        }
    }

    /// The calls of the next round, in the order of the list.
    fn round(&mut self) -> Vec<Call> {
        self.now.mono_us = self.now.mono_us.max(next_deadline(&self.machine));
        self.machine.on_time(self.now);
        let mut outputs = Outputs::default();
        self.machine.advance(self.now, &mut outputs);
        outputs.calls
    }

    fn answer(&mut self, call: &Call, attendance: Attendance) {
        let reply = answered(CallAnswer::Bootstrap(Some(attendance)));
        self.machine.on_reply(self.now, call.id, reply);
    }

    /// The one call of this turn.
    fn call(&mut self) -> Call {
        let mut outputs = Outputs::default();
        self.machine.advance(self.now, &mut outputs);
        assert_eq!(outputs.calls.len(), 1, "{:?}", outputs.calls);
        outputs.calls.remove(0)
    }

    fn turn(&mut self) -> Vec<Order> {
        let mut outputs = Outputs::default();
        self.machine.advance(self.now, &mut outputs);
        self.facts.append(&mut outputs.facts);
        outputs.orders
    }

    fn founds(&mut self) -> bool {
        self.turn()
            .iter()
            .any(|order| matches!(order, Order::Found))
    }

    fn founds_nothing(&mut self, text: &str) {
        assert!(self.turn().is_empty());
        let named = self
            .facts
            .iter()
            .any(|fact| matches!(fact, Fact::BootstrapDiffers { why } if why.contains(text)));
        assert!(named, "{:?}", self.facts);
    }
}
