//! Looks at what may not answer: each is taken once at a time, by one thread, whoever asks for it.
//!
//! A thread that waits for a libvirt which hangs cannot be ended. So there is at most one for each
//! thing that is looked at, and whoever asks meanwhile waits for the same look.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Things that are looked at, at the same time.
const LOOKS_MAX: usize = 16;

/// Looks under way, by what is looked at.
pub(crate) struct Looks<T: 'static>(Mutex<BTreeMap<String, Arc<Look<T>>>>);

struct Look<T> {
    found: Mutex<Option<Result<T, String>>>,
    done: Condvar,
}

impl<T: Clone + Send + 'static> Looks<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// What a look at `what` finds, if it does within `limit`: one that is under way, or a new one.
    pub(crate) fn share(
        &'static self,
        what: &str,
        limit: Duration,
        look: impl FnOnce(&str) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let look = self.under_way(what, look)?;
        let found = look.found.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = look.done.wait_timeout_while(found, limit, |found| found.is_none());
        let found = waited.unwrap_or_else(PoisonError::into_inner).0.clone();
        found.unwrap_or_else(|| Err(format!("nothing came within {limit:?}")))
    }

    fn under_way(
        &'static self,
        what: &str,
        work: impl FnOnce(&str) -> Result<T, String> + Send + 'static,
    ) -> Result<Arc<Look<T>>, String> {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(look) = looks.get(what) {
            return Ok(look.clone());
        }
        if looks.len() >= LOOKS_MAX {
            return Err(format!("{LOOKS_MAX} others have not answered yet"));
        }
        let look = Arc::new(Look { found: Mutex::new(None), done: Condvar::new() });
        let (own, name) = (Over { looks: self, what: what.to_owned(), look: look.clone() }, what);
        let name = name.to_owned();
        let run = move || {
            let found = work(&name);
            *own.look.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        };
        std::thread::Builder::new()
            .name("look".to_owned())
            .spawn(run)
            .map_err(|e| e.to_string())?;
        looks.insert(what.to_owned(), look.clone());
        Ok(look)
    }
}

/// Ends a look, also one that panics or whose thread cannot be had.
struct Over<T: 'static> {
    looks: &'static Looks<T>,
    what: String,
    look: Arc<Look<T>>,
}

impl<T> Drop for Over<T> {
    fn drop(&mut self) {
        let mut found = self.look.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.get_or_insert_with(|| Err("the look broke off".to_owned()));
        drop(found);
        self.look.done.notify_all();
        let mut looks = self.looks.0.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.get(&self.what).is_some_and(|look| Arc::ptr_eq(look, &self.look)) {
            looks.remove(&self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn whoever_asks_while_libvirt_hangs_waits_for_one_and_the_same_look() {
        static LOOKS: Looks<u32> = Looks::new();
        static BEGUN: AtomicUsize = AtomicUsize::new(0);
        let (go, hangs) = mpsc::channel::<()>();
        let hangs = Mutex::new(Some(hangs));
        let look = |limit| {
            let hangs = hangs.lock().unwrap().take();
            LOOKS.share("qemu:///system", limit, move |_| {
                BEGUN.fetch_add(1, Ordering::SeqCst);
                hangs.map_or(Ok(()), |hangs| hangs.recv().map_err(|e| e.to_string()))?;
                Ok(7)
            })
        };
        for _ in 0..100 {
            let late = look(Duration::from_millis(1)).unwrap_err();
            assert!(late.contains("nothing came"), "{late}");
        }
        assert!(BEGUN.load(Ordering::SeqCst) <= 1, "a thread for each");
        go.send(()).unwrap();
        assert_eq!(look(SOON), Ok(7));
        // Others are looked at meanwhile, and not without end.
        let (_keep, never) = mpsc::channel::<()>();
        let never = Arc::new(Mutex::new(never));
        let refused = (0..100).filter(|n| {
            let never = never.clone();
            let hang = move |_: &str| {
                let _ = never.lock().unwrap().recv();
                Ok(0)
            };
            let why = LOOKS.share(&format!("host{n}"), Duration::from_millis(1), hang).unwrap_err();
            why.contains("have not answered")
        });
        assert_eq!(refused.count(), 100 - LOOKS_MAX);
    }

    #[test]
    fn a_look_that_panics_is_over() {
        static LOOKS: Looks<u32> = Looks::new();
        let broke = LOOKS.share("x", SOON, |_| panic!("as libvirt's binding might"));
        assert_eq!(broke, Err("the look broke off".to_owned()));
    }
}
