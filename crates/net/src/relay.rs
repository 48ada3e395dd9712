//! A stream with another host whose conversation is parsed and written anew on its way to a UNIX socket
//! of this one.

use std::io;
use std::sync::{Arc, Mutex as Shared, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::join::Joined;
use crate::streams::Stream;

/// What is read at once, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// Parses a conversation. It may block: it looks at files.
pub trait Translate: Send + 'static {
    /// What is passed on to this host's side of what the other host's says.
    ///
    /// # Errors
    /// Why the stream is to be cut.
    fn hear_peer(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Cut>;

    /// What is passed on to the other host's side of what this host's says.
    ///
    /// # Errors
    /// Why the stream is to be cut.
    fn hear_own(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Cut>;
}

/// Why a stream is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// In words.
    pub why: String,
    /// What whoever said it hears before that.
    pub answer: Vec<u8>,
}

type Say<T> = fn(&mut T, &[u8]) -> Result<Vec<u8>, Cut>;

impl Stream {
    /// Passes on what `translate` makes of the bytes of either side, until both have ended.
    ///
    /// # Errors
    /// When either side broke off, something was not let pass (`PermissionDenied`), or the peer was
    /// removed from the cluster. Both sides are closed then.
    pub async fn relay<T: Translate>(self, local: UnixStream, translate: T) -> io::Result<Joined> {
        let removal = self.removal();
        let (far_read, far_write) = tokio::io::split(self.io);
        let (near_read, near_write) = local.into_split();
        let (far_write, near_write) = (Mutex::new(far_write), Mutex::new(near_write));
        let translate = Arc::new(Shared::new(translate));
        let inward = pass(far_read, &near_write, &far_write, &translate, T::hear_peer);
        let outward = pass(near_read, &far_write, &near_write, &translate, T::hear_own);
        tokio::select! {
            both = async { tokio::try_join!(outward, inward) } => {
                both.map(|(sent, received)| Joined { sent, received })
            }
            why = removal => Err(io::Error::new(io::ErrorKind::ConnectionAborted, why.to_string())),
        }
    }
}

async fn pass<T: Translate>(
    mut from: impl AsyncRead + Unpin,
    to: &Mutex<impl AsyncWrite + Unpin>,
    back: &Mutex<impl AsyncWrite + Unpin>,
    translate: &Arc<Shared<T>>,
    say: Say<T>,
) -> io::Result<u64> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut total = 0;
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            to.lock().await.shutdown().await?;
            return Ok(total);
        }
        let (bytes, translate) = (buffer[..length].to_vec(), Arc::clone(translate));
        let translated = tokio::task::spawn_blocking(move || {
            let mut translate = translate.lock().unwrap_or_else(PoisonError::into_inner);
            say(&mut translate, &bytes)
        });
        match translated.await.map_err(io::Error::other)? {
            Ok(bytes) => write(to, &bytes).await?,
            Err(Cut { why, answer }) => {
                // Whether it is heard is for the other side to see.
                let _ = write(back, &answer).await;
                let _ = back.lock().await.shutdown().await;
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
        }
        total += length as u64;
    }
}

async fn write(to: &Mutex<impl AsyncWrite + Unpin>, bytes: &[u8]) -> io::Result<()> {
    let mut to = to.lock().await;
    to.write_all(bytes).await?;
    // TLS holds back what fills no record until it is told.
    to.flush().await
}
