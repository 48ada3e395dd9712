//! Gathering: every host is asked for its brief, by pull, and only while somebody looks.
//!
//! The gatherer takes a turn every few seconds. In each it asks the hosts that have not been asked for
//! the longest time, so many as the [`Pace`] allows; hosts with a move under way come up in every turn.
//! All who look share what one gatherer hears.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evenkeel_core::model::HostId;
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::brief::Brief;
use crate::cluster::{Cache, Mark, Update};
use crate::{Ask, Listed};

/// How often hosts are asked.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Time between two turns. Hosts with a move under way are asked in each.
    pub turn: Duration,
    /// Time after which a host is asked again, in a cluster small enough for it.
    pub every: Duration,
    /// Most hosts asked in a second.
    pub per_second: usize,
    /// Most hosts asked at the same time.
    pub at_once: usize,
    /// How long a host may take to answer.
    pub answer: Duration,
    /// How long gathering goes on after somebody has looked.
    pub lease: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            turn: Duration::from_secs(2),
            every: Duration::from_secs(4),
            per_second: 20,
            at_once: 16,
            answer: Duration::from_secs(4),
            lease: Duration::from_secs(30),
        }
    }
}

/// Most streams at the same time.
const STREAMS_MAX: usize = 16;
/// How long somebody who looks first waits for hosts to be heard.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// What is known of a cluster, kept up to date while somebody looks.
#[derive(Debug)]
pub struct Desk<A>(Arc<Inner<A>>);

impl<A> Clone for Desk<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Inner<A> {
    ask: A,
    pace: Pace,
    cache: Mutex<Cache>,
    /// When somebody looked last.
    looked: Mutex<Option<Instant>>,
    /// Streams that are open.
    watching: AtomicUsize,
    awake: Notify,
    news: watch::Sender<u64>,
    room: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

/// Somebody who keeps looking, until this is dropped.
#[derive(Debug)]
pub struct Watcher<A> {
    desk: Desk<A>,
    news: watch::Receiver<u64>,
    _seat: OwnedSemaphorePermit,
}

impl<A> Drop for Watcher<A> {
    fn drop(&mut self) {
        let inner = &self.desk.0;
        inner.watching.fetch_sub(1, Ordering::SeqCst);
        *locked(&inner.looked) = Some(Instant::now());
    }
}

impl<A> Watcher<A> {
    /// Waits until anything is heard.
    pub async fn news(&mut self) {
        if self.news.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whoever panicked with it held left nothing half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<A: Ask> Desk<A> {
    /// A desk whose gatherer sleeps until somebody looks. To be called within a runtime.
    #[must_use]
    pub fn start(ask: A, pace: Pace) -> Self {
        let life = rand::make_rng::<ChaCha12Rng>().next_u32();
        let cache = Mutex::new(Cache::new(ask.here(), life));
        let inner = Inner {
            ask,
            pace,
            cache,
            looked: Mutex::new(None),
            watching: AtomicUsize::new(0),
            awake: Notify::new(),
            news: watch::channel(0).0,
            room: Arc::new(Semaphore::new(pace.at_once)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        };
        let desk = Self(Arc::new(inner));
        tokio::spawn(desk.clone().gather());
        desk
    }

    /// How hosts are reached.
    #[must_use]
    pub fn ask(&self) -> &A {
        &self.0.ask
    }

    /// Somebody looks once: what is known is kept up to date for a while.
    pub fn look(&self) {
        *locked(&self.0.looked) = Some(Instant::now());
        self.0.awake.notify_one();
    }

    /// Somebody keeps looking; nothing if too many do.
    #[must_use]
    pub fn watch(&self) -> Option<Watcher<A>> {
        let seat = self.0.streams.clone().try_acquire_owned().ok()?;
        self.0.watching.fetch_add(1, Ordering::SeqCst);
        self.0.awake.notify_one();
        Some(Watcher { desk: self.clone(), news: self.0.news.subscribe(), _seat: seat })
    }

    /// What is new since a revision.
    #[must_use]
    pub fn since(&self, mark: Option<Mark>) -> Update {
        locked(&self.0.cache).since(mark, self.0.ask.now())
    }

    /// Waits, not for long, until every host has been heard or missed once.
    pub async fn heard_once(&self) {
        let mut news = self.0.news.subscribe();
        let all = async {
            while !self.knows_all() {
                if news.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whoever is not heard by then is shown as not heard.
        let _ = timeout(FIRST_LOOK, all).await;
    }

    fn knows_all(&self) -> bool {
        let cache = locked(&self.0.cache);
        let known = cache.hosts().all(|(_, known)| known.brief.is_some() || known.silent.is_some());
        known && cache.hosts().next().is_some()
    }

    /// Asks these hosts something, side by side. The answers come in the order of the hosts.
    pub async fn ask_all(
        &self,
        hosts: Vec<HostId>,
        path: &str,
    ) -> Vec<(HostId, Result<axum::body::Bytes, String>)> {
        let asked = hosts.into_iter().map(|host| {
            let (desk, path) = (self.clone(), path.to_owned());
            tokio::spawn(async move {
                let answer = desk.ask_one(&host, path).await;
                (host, answer)
            })
        });
        let mut answers = Vec::new();
        for answer in asked.collect::<Vec<_>>() {
            answers.extend(answer.await);
        }
        answers
    }

    async fn ask_one(&self, host: &HostId, path: String) -> Result<axum::body::Bytes, String> {
        // Nobody closes it.
        let _place = self.0.room.acquire().await;
        let limit = self.0.pace.answer;
        let answer = timeout(limit, self.0.ask.get(host.clone(), path)).await;
        answer.unwrap_or_else(|_| Err(format!("nothing came within {limit:?}")))
    }

    async fn gather(self) {
        let mut asked: BTreeMap<HostId, Instant> = BTreeMap::new();
        loop {
            while !self.is_looked_at() {
                self.0.awake.notified().await;
            }
            let next = Instant::now() + self.0.pace.turn;
            self.turn(&mut asked).await;
            sleep_until(next).await;
        }
    }

    fn is_looked_at(&self) -> bool {
        let lately = |at: Instant| at.elapsed() < self.0.pace.lease;
        self.0.watching.load(Ordering::SeqCst) > 0 || locked(&self.0.looked).is_some_and(lately)
    }

    /// Asks whoever is due.
    async fn turn(&self, asked: &mut BTreeMap<HostId, Instant>) {
        let listed = match self.0.ask.hosts().await {
            Ok(listed) => listed,
            Err(why) => {
                self.missed(&self.0.ask.here(), why);
                return;
            }
        };
        let all: Vec<HostId> = listed.iter().map(|listed| listed.host.clone()).collect();
        asked.retain(|host, _| all.contains(host));
        locked(&self.0.cache).are(&all);
        let (alive, dead): (Vec<_>, Vec<_>) = listed.into_iter().partition(|listed| listed.alive);
        for Listed { host, .. } in dead {
            asked.remove(&host);
            self.missed(&host, "the other hosts do not reach its agent".to_owned());
        }
        let due = self.due(alive, asked);
        let now = Instant::now();
        asked.extend(due.iter().map(|host| (host.clone(), now)));
        let hear = due.into_iter().map(|host| {
            let desk = self.clone();
            tokio::spawn(async move { desk.hear(host).await })
        });
        for heard in hear.collect::<Vec<_>>() {
            if let Err(error) = heard.await {
                tracing::warn!(%error, "a host was not asked");
            }
        }
    }

    /// Who is to be asked in this turn: whoever waits longest first.
    fn due(&self, alive: Vec<Listed>, asked: &BTreeMap<HostId, Instant>) -> Vec<HostId> {
        let Pace { turn, every, per_second, .. } = self.0.pace;
        let busy = self.busy();
        let age = |host: &HostId| asked.get(host).map(Instant::elapsed);
        // Never quite a whole turn has passed since the turn before.
        let slack = turn / 4;
        let is_due = |host: &HostId| match age(host) {
            None => true,
            Some(age) if busy.contains(host) => age + slack >= turn,
            Some(age) => age + slack >= every,
        };
        let mut due: Vec<HostId> = alive.into_iter().map(|l| l.host).filter(is_due).collect();
        // Those never asked come first.
        due.sort_by_key(|host| {
            age(host).map_or((0, Duration::ZERO), |age| (1, Duration::MAX - age))
        });
        due.truncate(((per_second as f64 * turn.as_secs_f64()) as usize).max(1));
        due
    }

    /// Hosts with a move under way, and those that they go to.
    fn busy(&self) -> BTreeSet<HostId> {
        let cache = locked(&self.0.cache);
        let briefs = cache.hosts().filter_map(|(_, known)| known.brief.clone());
        let moving = briefs.flat_map(|brief| {
            let to: Vec<HostId> = brief.moves.iter().map(|m| m.to.clone()).collect();
            let from = (!to.is_empty()).then(|| brief.host.clone());
            to.into_iter().chain(from)
        });
        moving.collect()
    }

    async fn hear(&self, host: HostId) {
        let answer = self.ask_one(&host, "/api/v1/brief".to_owned()).await;
        let brief = answer.and_then(|bytes| {
            let unread =
                |e| format!("its agent is of a version that says nothing of use here: {e}");
            serde_json::from_slice::<Brief>(&bytes).map_err(unread)
        });
        match brief {
            // What it says of itself goes under its own name.
            Ok(brief) => {
                let brief = Brief { host, ..brief };
                locked(&self.0.cache).hear(brief, self.0.ask.now());
            }
            Err(why) => return self.missed(&host, why),
        }
        self.0.news.send_modify(|news| *news += 1);
    }

    fn missed(&self, host: &HostId, why: String) {
        locked(&self.0.cache).miss(host, why, self.0.ask.now());
        self.0.news.send_modify(|news| *news += 1);
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use evenkeel_core::model::Time;

    use super::*;
    use crate::brief::tests::brief;

    /// Hosts that answer, count how often they are asked, and of which the last does not answer.
    #[derive(Clone)]
    struct Answering {
        hosts: usize,
        asked: Arc<Mutex<BTreeMap<HostId, usize>>>,
        at_once: Arc<(AtomicUsize, AtomicUsize)>,
    }

    impl Answering {
        fn new(hosts: usize) -> Self {
            Self { hosts, asked: Arc::default(), at_once: Arc::default() }
        }

        fn asked(&self) -> usize {
            locked(&self.asked).values().sum()
        }
    }

    impl Ask for Answering {
        fn here(&self) -> HostId {
            HostId::new("h0").unwrap()
        }

        fn now(&self) -> Time {
            Time::from_unix_ms(1)
        }

        async fn hosts(&self) -> Result<Vec<Listed>, String> {
            let host = |i| HostId::new(&format!("h{i}")).unwrap();
            Ok((0..self.hosts).map(|i| Listed { host: host(i), alive: i != 3 }).collect())
        }

        async fn get(&self, host: HostId, _: String) -> Result<Bytes, String> {
            *locked(&self.asked).entry(host.clone()).or_default() += 1;
            self.at_once
                .1
                .fetch_max(self.at_once.0.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            self.at_once.0.fetch_sub(1, Ordering::SeqCst);
            if host.as_str() == "h2" {
                std::future::pending::<()>().await;
            }
            Ok(serde_json::to_vec(&brief(host.as_str(), &[100])).unwrap().into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_asked_while_nobody_looks() {
        let hosts = Answering::new(2);
        let desk = Desk::start(hosts.clone(), Pace::default());
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(hosts.asked(), 0);
        desk.look();
        tokio::time::sleep(Duration::from_secs(600)).await;
        let asked = hosts.asked();
        assert!((2..=2 * 10).contains(&asked), "asked {asked} times in a lease");
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(hosts.asked(), asked, "asked after the lease");
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_that_are_silent_or_dead_hold_nobody_up_and_are_told() {
        let hosts = Answering::new(5);
        let desk = Desk::start(hosts.clone(), Pace::default());
        let watcher = desk.watch().unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
        let update = desk.since(None);
        let silent: Vec<&str> = update.silent.keys().map(HostId::as_str).collect();
        assert_eq!(silent, ["h2", "h3"]);
        assert_eq!(update.hosts.len(), 3);
        assert_eq!(locked(&hosts.asked).get(&HostId::new("h3").unwrap()), None);
        drop(watcher);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_cluster_is_asked_in_bounds_and_nobody_is_left_out() {
        let hosts = Answering::new(200);
        let pace = Pace { every: Duration::from_secs(1), ..Pace::default() };
        let desk = Desk::start(hosts.clone(), pace);
        let _watcher = desk.watch().unwrap();
        tokio::time::sleep(Duration::from_secs(24)).await;
        assert!(hosts.asked() <= 20 * 26, "asked {} times in 24 s", hosts.asked());
        let least = locked(&hosts.asked).values().copied().min();
        assert!(least >= Some(1) && locked(&hosts.asked).len() == 199, "{least:?}");
        assert!(hosts.at_once.1.load(Ordering::SeqCst) <= pace.at_once);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_may_watch_and_the_next_may_when_one_is_gone() {
        let desk = Desk::start(Answering::new(1), Pace::default());
        let mut watchers: Vec<_> = (0..STREAMS_MAX).filter_map(|_| desk.watch()).collect();
        assert_eq!(watchers.len(), STREAMS_MAX);
        assert!(desk.watch().is_none());
        watchers.pop();
        assert!(desk.watch().is_some());
    }
}
