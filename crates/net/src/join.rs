//! A stream with another host joined to a UNIX socket of this one, at a bounded pace.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::streams::Stream;

/// What is on its way through this process, per stream and direction.
const BUFFER_BYTES: usize = 256 << 10;
/// A stream takes its turn for so much.
const TURN_BYTES: usize = 64 << 10;

/// How fast all streams together may send, which take turns.
#[derive(Debug)]
pub struct Pace {
    bytes_per_s: f64,
    /// When what has been sent would have been sent at that pace. Those that wait for the lock come
    /// one after the other, in the order in which they came.
    free_at: Mutex<Instant>,
}

impl Pace {
    /// So many bytes a second, at least one.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1) as f64, free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until so many bytes may be sent.
    async fn wait_for(&self, bytes: usize) {
        let mut free_at = self.free_at.lock().await;
        let now = Instant::now();
        if *free_at > now {
            tokio::time::sleep_until(*free_at).await;
        }
        let began = (*free_at).max(now);
        *free_at = began + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s);
    }
}

/// How many bytes went which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// To the other host.
    pub sent: u64,
    /// From it.
    pub received: u64,
}

impl Stream {
    /// Passes bytes both ways between the other host and a socket until both have ended, and passes
    /// each end on. With a `pace`, what is sent keeps to it.
    ///
    /// # Errors
    /// When either side broke off, or the peer was removed from the cluster. Both sides are closed
    /// then.
    pub async fn join(self, local: UnixStream, pace: Option<&Pace>) -> io::Result<Joined> {
        let removal = self.removal();
        let (far_read, far_write) = tokio::io::split(self.io);
        let (near_read, near_write) = local.into_split();
        let outward = copy(near_read, far_write, pace);
        let inward = copy(far_read, near_write, None);
        tokio::select! {
            both = async { tokio::try_join!(outward, inward) } => {
                both.map(|(sent, received)| Joined { sent, received })
            }
            why = removal => Err(io::Error::new(io::ErrorKind::PermissionDenied, why.to_string())),
        }
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    pace: Option<&Pace>,
) -> io::Result<u64> {
    let mut buffer = vec![0; if pace.is_some() { TURN_BYTES } else { BUFFER_BYTES }];
    let mut total = 0;
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            to.shutdown().await?;
            return Ok(total);
        }
        let bytes = &buffer[..length];
        if let Some(pace) = pace {
            pace.wait_for(length).await;
        }
        to.write_all(bytes).await?;
        // TLS holds back what fills no record until it is told.
        to.flush().await?;
        total += length as u64;
    }
}
