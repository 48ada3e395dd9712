//! All hosts of the cluster, asked side by side: one that is silent holds nobody up.

use std::future::Future;
use std::sync::Arc;

use evenkeel_agent::Client;
use evenkeel_core::model::HostId;
use tokio::sync::Semaphore;

use crate::output::Failure;

/// So many are asked at the same time: fewer than what an agent passes on for its own host.
const ASKED_AT_ONCE: usize = 16;

/// Every host of the cluster and a client of its agent, the one that is asked first. Those that do not
/// answer are among them: whoever asks is told so by each.
pub(super) async fn everybody(client: Client) -> Result<Vec<(HostId, Client)>, Failure> {
    let status = client.status().await?;
    let silent = status.silent.iter().map(|silent| &silent.host);
    let others = status.members.iter().chain(silent).map(|host| (host.clone(), client.of(host)));
    Ok(std::iter::once((status.host.clone(), client.clone())).chain(others).collect())
}

/// Asks each of these, so many at the same time as an agent takes. The answers come in the order of
/// those who were asked.
pub(super) async fn side_by_side<T, A, F>(
    those: impl IntoIterator<Item = T>,
    ask: impl Fn(T) -> F,
) -> Result<Vec<A>, Failure>
where
    A: Send + 'static,
    F: Future<Output = A> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(ASKED_AT_ONCE));
    let asked = those.into_iter().map(|one| {
        let (room, answer) = (Arc::clone(&room), ask(one));
        tokio::spawn(async move {
            // Nobody closes it.
            let _place = room.acquire_owned().await;
            answer.await
        })
    });
    let mut answers = Vec::new();
    for answer in asked.collect::<Vec<_>>() {
        answers.push(answer.await?);
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::hosts::block_on;

    /// Asks so many, of whom the first is the last to answer. Returns the most at the same time.
    fn asked(count: usize) -> usize {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let ask = |one: usize| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                for _ in 0..if one == 0 { 1000 } else { 1 } {
                    tokio::task::yield_now().await;
                }
                now.fetch_sub(1, Ordering::SeqCst);
                one
            }
        };
        let answers = block_on(side_by_side(0..count, ask)).expect("none panics");
        assert_eq!(answers, (0..count).collect::<Vec<_>>());
        most.load(Ordering::SeqCst)
    }

    #[test]
    fn hosts_are_asked_side_by_side_in_bounds_and_answer_in_their_order() {
        assert_eq!(asked(3), 3);
        assert_eq!(asked(3 * ASKED_AT_ONCE), ASKED_AT_ONCE);
    }
}
