//! A recording in place of a cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use evenkeel_core::decision::Decision;
use evenkeel_core::explain::{HostExplained, MachineExplained};
use evenkeel_core::model::{HostId, Time};
use tokio::time::Instant;

use crate::brief::Brief;
use crate::recording::Line;
use crate::serve::Problem;
use crate::{Ask, Listed};

/// What was said from when on; nothing while the host was down.
type Told = (Time, Option<Arc<Brief>>);

/// Plays a recording, so many times as fast as it went, and stays at its end.
#[derive(Clone, Debug)]
pub struct Player(Arc<Recorded>);

#[derive(Debug)]
struct Recorded {
    started: Instant,
    speed: f64,
    began: Time,
    ends: Time,
    /// What is known of each host from when on; nothing while it is down.
    hosts: BTreeMap<HostId, Vec<Told>>,
    /// Oldest first.
    decisions: Vec<Decision>,
    of_hosts: BTreeMap<HostId, HostExplained>,
    of_machines: BTreeMap<(HostId, String), MachineExplained>,
}

impl Player {
    /// Begins to play.
    ///
    /// # Errors
    /// When there is no moment in the recording.
    pub fn start(lines: Vec<Line>, speed: f64) -> Result<Self, String> {
        let zero = Time::from_unix_ms(0);
        let mut recorded = Recorded {
            started: Instant::now(),
            speed,
            began: zero,
            ends: zero,
            hosts: BTreeMap::new(),
            decisions: Vec::new(),
            of_hosts: BTreeMap::new(),
            of_machines: BTreeMap::new(),
        };
        let mut moments = 0;
        for line in lines {
            match line {
                Line::Recording(_) => {}
                Line::Moment(moment) => {
                    if moments == 0 {
                        recorded.began = moment.at;
                    }
                    moments += 1;
                    recorded.ends = moment.at;
                    for brief in moment.hosts {
                        let of_host = recorded.hosts.entry(brief.host.clone()).or_default();
                        of_host.push((moment.at, Some(brief)));
                    }
                    for host in moment.down {
                        recorded.hosts.entry(host).or_default().push((moment.at, None));
                    }
                }
                Line::Decision(decision) => recorded.decisions.push(*decision),
                Line::Host(host) => drop(recorded.of_hosts.insert(host.host.clone(), *host)),
                Line::Machine(machine) => {
                    let key = (machine.host.clone(), machine.name.clone());
                    recorded.of_machines.insert(key, *machine);
                }
            }
        }
        if recorded.hosts.is_empty() {
            return Err("it shows no host".to_owned());
        }
        recorded.decisions.sort_by_key(|decision| decision.ended);
        Ok(Self(Arc::new(recorded)))
    }

    /// How long it plays.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.0.ends.since(self.0.began).div_f64(self.0.speed)
    }

    /// What is asked of a host by its name, as an agent would be asked for another one.
    pub fn routes(self) -> Router {
        Router::new().route("/api/v1/hosts/{host}/{*what}", any(of_host)).with_state(self)
    }

    /// A host at this moment.
    fn brief(&self, host: &HostId, now: Time) -> Result<Brief, String> {
        let known = self.0.hosts.get(host).ok_or_else(|| format!("`{host}` is not recorded"))?;
        let until = known.partition_point(|(at, _)| *at <= now);
        let told = until.checked_sub(1).and_then(|last| known[last].1.as_ref());
        let brief = told.ok_or_else(|| format!("{host} was down when this was recorded"))?;
        Ok(Brief { at: now, ..Brief::clone(brief) })
    }

    fn answer(&self, host: &HostId, path: &str) -> Result<Bytes, String> {
        let now = self.now();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let json = match path.strip_prefix("/api/v1/").unwrap_or(path) {
            "brief" => serde_json::to_vec(&self.brief(host, now)?),
            "decisions" => serde_json::to_vec(&self.decisions(host, query, now)),
            "recommendations" => Ok(b"[]".to_vec()),
            "explain/host" => {
                let told = self.0.of_hosts.get(host);
                serde_json::to_vec(told.ok_or("no explanation of this host was recorded")?)
            }
            other => {
                let name = other.strip_prefix("explain/machines/").map(unescaped);
                let key = name.map(|name| (host.clone(), name));
                let told = key.and_then(|key| self.0.of_machines.get(&key));
                let none = "no explanation of this machine on this host was recorded: it is where it \
                            was at the end of the recording, and large clusters are recorded without";
                serde_json::to_vec(told.ok_or(none)?)
            }
        };
        json.map(Bytes::from).map_err(|e| e.to_string())
    }

    fn decisions(&self, host: &HostId, query: &str, now: Time) -> Vec<&Decision> {
        let value = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let limit = value("limit").and_then(|v| v.parse().ok()).unwrap_or(50);
        let since = value("since").and_then(|v| v.parse().ok()).map(Time::from_unix_ms);
        let (moves, exchange) = (value("moves") == Some("true"), value("exchange"));
        let wanted = |decision: &&Decision| {
            decision.host == *host
                && decision.ended <= now
                && since.is_none_or(|since| decision.ended >= since)
                && (!moves || decision.chosen().is_some())
                && exchange.is_none_or(|id| decision.exchange.to_string() == id)
        };
        self.0.decisions.iter().rev().filter(wanted).take(limit).collect()
    }
}

impl Ask for Player {
    fn here(&self) -> HostId {
        // There is at least one.
        self.0.hosts.keys().next().cloned().unwrap_or_else(|| unreachable!("a recording has hosts"))
    }

    fn now(&self) -> Time {
        let played = self.0.started.elapsed().mul_f64(self.0.speed);
        (self.0.began + played).min(self.0.ends)
    }

    async fn hosts(&self) -> Result<Vec<Listed>, String> {
        let now = self.now();
        let listed =
            |host: &HostId| Listed { host: host.clone(), alive: self.brief(host, now).is_ok() };
        Ok(self.0.hosts.keys().map(listed).collect())
    }

    async fn get(&self, host: HostId, path: String) -> Result<Bytes, String> {
        self.answer(&host, &path)
    }
}

/// A name out of an address.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let hex = more.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn of_host(
    State(player): State<Player>,
    Path((host, _)): Path<(HostId, String)>,
    request: Request,
) -> Response {
    if request.method() != Method::GET {
        let why = "this is a recording: nothing can be done in it";
        return Problem::new(StatusCode::METHOD_NOT_ALLOWED, why).into_response();
    }
    let uri = request.uri();
    let what = uri.path().split_once(&format!("/hosts/{host}/")).map_or("", |(_, what)| what);
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    match player.answer(&host, &format!("/api/v1/{what}{query}")) {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(why) => Problem::new(StatusCode::NOT_FOUND, why).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brief::tests::brief;
    use crate::recording::Moment;

    fn moment(at: u64, loads: &[(&str, u32)], down: &[&str]) -> Line {
        let hosts = loads.iter().map(|(host, load)| Arc::new(brief(host, &[*load])));
        Line::Moment(Moment {
            at: Time::from_unix_ms(at),
            hosts: hosts.collect(),
            down: down.iter().map(|host| HostId::new(host).unwrap()).collect(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_recording_is_played_as_fast_as_wanted_and_stays_at_its_end() {
        let lines = vec![
            moment(60_000, &[("a", 100), ("b", 900)], &[]),
            moment(120_000, &[("b", 500)], &[]),
            moment(180_000, &[], &["b"]),
        ];
        let player = Player::start(lines, 60.0).unwrap();
        let b = HostId::new("b").unwrap();
        let load = || player.brief(&b, player.now()).ok().and_then(|brief| brief.load);
        assert_eq!(load(), Some(900));
        tokio::time::advance(Duration::from_millis(1500)).await;
        assert_eq!(load(), Some(500));
        tokio::time::advance(Duration::from_secs(600)).await;
        assert_eq!(load(), None);
        assert_eq!(player.now(), Time::from_unix_ms(180_000));
        let alive: Vec<bool> = player.hosts().await.unwrap().iter().map(|l| l.alive).collect();
        assert_eq!(alive, [true, false]);
    }

    #[tokio::test]
    async fn an_empty_recording_is_refused() {
        assert!(Player::start(vec![], 1.0).is_err());
    }

    #[test]
    fn names_come_out_of_addresses_as_they_went_in() {
        for (text, name) in
            [("web-1", "web-1"), ("a%20b%2Fc", "a b/c"), ("50%", "50%"), ("%zz", "%zz")]
        {
            assert_eq!(unescaped(text), name);
        }
    }
}
