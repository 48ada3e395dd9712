//! `evenkeel ui`: the operator's desk in a browser, on the loopback.

use std::fs::DirBuilder;
use std::io::BufReader;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use evenkeel_agent::page;
use evenkeel_desk::door::Door;
use evenkeel_desk::replay::Player;
use evenkeel_desk::serve::{self, Me, Role};
use evenkeel_desk::{Desk, Pace, recording};
use tokio::net::TcpListener;

use crate::output::Failure;

/// How long `ssh` may take, passwords typed by hand included.
const SSH_TIME_MAX: Duration = Duration::from_secs(120);
/// How often it is looked whether it is there.
const SSH_LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct UiArgs {
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = super::AGENT_SOCKET)]
    socket: PathBuf,
    /// Look at the agent of a host that `ssh` reaches, such as `root@kvm1`
    #[arg(long, value_name = "DESTINATION")]
    ssh: Option<String>,
    /// Look at a recording, as `evenkeel simulate --record` writes it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket", "ssh"])]
    replay: Option<PathBuf>,
    /// How many times as fast as it went a recording is played
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = speed, requires = "replay")]
    speed: f64,
    /// The port on the loopback; one that is free otherwise
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed: Option<f64> = text.parse().ok();
    speed
        .filter(|speed| (0.1..=10_000.0).contains(speed))
        .ok_or_else(|| "write how many times as fast, from 0.1 to 10000".to_owned())
}

pub(super) async fn run(args: UiArgs) -> Result<(), Failure> {
    let mut tunnel = None;
    let routes = match (&args.replay, &args.ssh) {
        (Some(file), _) => replayed(file, args.speed)?,
        (None, Some(destination)) => {
            let through = Tunnel::open(destination, &args.socket).await?;
            let routes = page(&through.socket());
            tunnel = Some(through);
            routes
        }
        (None, None) => {
            // Whoever cannot open it learns so here and not in a browser.
            evenkeel_agent::Client::new(&args.socket).status().await?;
            page(&args.socket)
        }
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let listener = TcpListener::bind(address)
        .await
        .map_err(|e| format!("cannot listen on {address}: {e}; choose another --port"))?;
    let door = Door::new(listener.local_addr()?.port());
    crate::output::say!("{}", door.link())?;
    crate::output::tell!(
        "hint: open this link in a browser on this computer; it lets in once. Ctrl-C ends the page."
    );
    let again = door.clone();
    tokio::select! {
        served = serve::listen(listener, door.guard(routes)) => served?,
        () = tell_links(again) => {}
        _ = tokio::signal::ctrl_c() => {}
        ended = tunnel_ends(tunnel.as_mut()) => return Err(ended.into()),
    }
    Ok(())
}

/// Prints a new link whenever the one before has been followed.
async fn tell_links(door: Door) {
    loop {
        door.followed().await;
        crate::output::tell!("for another browser: {}", door.link());
    }
}

fn replayed(file: &Path, speed: f64) -> Result<axum::Router, Failure> {
    let named = file.display();
    let opened = std::fs::File::open(file);
    let opened = opened.map_err(|e| format!("cannot read the recording `{named}`: {e}"))?;
    let unusable = |why: String| format!("`{named}` is no recording that can be played: {why}");
    let read = recording::read(BufReader::new(opened));
    let (head, lines) = read.map_err(|e| unusable(e.to_string()))?;
    let player = Player::start(lines, speed).map_err(unusable)?;
    crate::output::tell!("{} ({:.0} s at this speed)", head.about, player.length().as_secs_f64());
    let me = Me { name: "a recording".to_owned(), role: Role::Read, recorded: true };
    // Nobody is kept from anything by being asked in vain.
    let pace = Pace {
        turn: Duration::from_secs(1),
        every: Duration::from_secs(1),
        per_second: usize::MAX >> 16,
        ..Pace::default()
    };
    let desk = Desk::start(player.clone(), pace);
    Ok(serve::routes(desk, me).merge(player.routes()))
}

/// An agent's socket on another host, brought here by `ssh`.
struct Tunnel {
    directory: PathBuf,
    ssh: Child,
    destination: String,
}

impl Tunnel {
    async fn open(destination: &str, socket: &Path) -> Result<Self, Failure> {
        if destination.starts_with('-') {
            return Err(format!("`{destination}` is no destination for ssh").into());
        }
        let directory = std::env::temp_dir().join(format!("evenkeel-ui-{}", std::process::id()));
        let failed = |e| format!("cannot make the directory `{}`: {e}", directory.display());
        DirBuilder::new().mode(0o700).create(&directory).map_err(failed)?;
        let forward = format!("{}:{}", directory.join("agent.sock").display(), socket.display());
        let started = Command::new("ssh")
            .args(["-N", "-o", "ExitOnForwardFailure=yes", "-L", &forward, "--", destination])
            .stdin(Stdio::inherit())
            .stdout(Stdio::null())
            .spawn();
        let ssh = started.map_err(|e| format!("cannot start `ssh`: {e}"))?;
        let mut tunnel = Self { directory, ssh, destination: destination.to_owned() };
        let limit = Instant::now() + SSH_TIME_MAX;
        while !tunnel.socket().exists() {
            if let Some(why) = tunnel.ended() {
                return Err(why.into());
            }
            if Instant::now() > limit {
                return Err(format!("ssh has not reached {destination} in {SSH_TIME_MAX:?}").into());
            }
            tokio::time::sleep(SSH_LOOK).await;
        }
        Ok(tunnel)
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("agent.sock")
    }

    fn ended(&mut self) -> Option<String> {
        let status = self.ssh.try_wait().ok().flatten()?;
        Some(format!(
            "ssh to {} has ended ({status}): see that `ssh {}` works, and that its user may open the \
             agent's socket",
            self.destination, self.destination
        ))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Waits until a tunnel is gone; for ever where there is none.
async fn tunnel_ends(tunnel: Option<&mut Tunnel>) -> String {
    let Some(tunnel) = tunnel else { return std::future::pending().await };
    loop {
        if let Some(why) = tunnel.ended() {
            return why;
        }
        tokio::time::sleep(SSH_LOOK).await;
    }
}
