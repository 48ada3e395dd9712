//! What `evenkeel-fuzz` does to the decoders here.

use evenkeel_core::model::{Entry, HandoffId, MachineId, Requirements};

use super::closed::listed;
use super::document::Node;
use super::{Agreed, Control, Here, Sockets};

/// The machine of the corpus.
const MACHINE: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";

type Feed = fn(&mut Control, &[u8]) -> Result<Vec<u8>, super::Refused>;

fn controls() -> Vec<Control> {
    let Ok(machine) = MachineId::new(MACHINE) else { return Vec::new() };
    let agreed = Agreed {
        sockets: Sockets::of(std::path::Path::new("/run/evenkeel/handoffs"), HandoffId(0xab)),
        uri: "qemu:///system".to_owned(),
        machine,
        name: None,
        entry: Entry::default(),
        paused: false,
        memory_bytes: f64::INFINITY,
        needs: Requirements::default(),
        disks: Vec::new(),
    };
    let here = [None, Some(Here::default())];
    here.into_iter().map(|here| Control::new(agreed.clone(), here)).collect()
}

/// Feeds bytes in pieces; what comes out, and whether the end was reached.
fn passed(
    control: &mut Control,
    feed: Feed,
    pieces: std::slice::Chunks<'_, u8>,
) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    for piece in pieces {
        match feed(control, piece) {
            Ok(bytes) => out.extend(bytes),
            Err(_) => return (out, false),
        }
    }
    (out, true)
}

pub(crate) fn control(bytes: &[u8]) {
    let feeds: [(bool, Feed); 2] = [(false, Control::from_source), (true, Control::from_target)];
    for (answers, feed) in feeds {
        let primed = || {
            let mut controls = controls();
            if answers {
                // So that there is something to answer.
                let asked = include_bytes!("recorded/source");
                controls.iter_mut().for_each(|control| drop(control.from_source(asked)));
            }
            controls
        };
        for (mut whole, mut cut) in primed().into_iter().zip(primed()) {
            let (at_once, all) = passed(&mut whole, feed, bytes.chunks(bytes.len().max(1)));
            let (piecewise, same) = passed(&mut cut, feed, bytes.chunks(7));
            assert_eq!(all, same, "whether it ends depends on how it is cut");
            assert!(piecewise.starts_with(&at_once), "what passes depends on how it is cut");
        }
        // What was passed on is passed on as it is.
        for (mut first, mut second) in primed().into_iter().zip(primed()) {
            let (once, _) = passed(&mut first, feed, bytes.chunks(7));
            let (twice, all) = passed(&mut second, feed, once.chunks(once.len().max(1)));
            assert!(all && once == twice, "what was passed on is not passed on again");
        }
    }
}

pub(crate) fn description(text: &str) {
    let Ok(root) = Node::parse(text) else { return };
    let written = root.write();
    assert_eq!(Node::parse(&written).as_ref(), Ok(&root), "{written}");
    let Ok(found) = listed(&root) else { return };
    let again = Node::parse(&found.root.write()).map(|root| listed(&root));
    assert_eq!(again.map(|again| again.map(|again| again.root)), Ok(Ok(found.root)));
}
