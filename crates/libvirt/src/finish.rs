//! The target's answer to the last step of a migration, as it passes whoever carries it.
//!
//! After *finish* the source's libvirt waits for the target's. If it is answered that the machine is there,
//! it ends the machine here, and never lets it run on. If it is not answered, it lets it run on, beside a
//! copy that is complete. So whoever carries the answer can tell for good which of the two it was.

/// The length of a frame, itself included, and the six numbers of its header, of 4 bytes each.
const HEADER_BYTES: usize = 28;
/// `remote_protocol.x`.
const REMOTE: u32 = 0x2000_8086;
/// `REMOTE_PROC_DOMAIN_MIGRATE_FINISH3_PARAMS`.
const FINISH: u32 = 306;
/// `VIR_NET_REPLY`.
const REPLY: u32 = 1;
/// `VIR_NET_OK`. To finish what was cancelled is answered with an error.
const OK: u32 = 0;

/// Watches what the target's libvirt answers. To be shown every byte before it is passed on, and only if
/// all that it was shown before has been passed on: what has not reached libvirt may never reach it.
#[derive(Debug, Default)]
pub struct FinishWatch {
    header: Vec<u8>,
    /// What is still to come of the present frame's body, and whether the frame is the answer.
    body: u64,
    is_answer: bool,
    /// The whole answer was in what was shown so far.
    shown: bool,
    told: bool,
}

impl FinishWatch {
    /// Looks at the next bytes, however they are cut. Answers, once, whether the whole answer was in those
    /// before them.
    pub fn has_passed(&mut self, mut bytes: &[u8]) -> bool {
        let news = self.shown && !self.told;
        self.told |= news;
        while !bytes.is_empty() && !self.shown {
            if self.body == 0 {
                let taken = (HEADER_BYTES - self.header.len()).min(bytes.len());
                self.header.extend_from_slice(&bytes[..taken]);
                bytes = &bytes[taken..];
                if self.header.len() < HEADER_BYTES {
                    break;
                }
                self.begin_body();
            } else {
                let left = usize::try_from(self.body).unwrap_or(usize::MAX);
                let skipped = left.min(bytes.len());
                self.body -= skipped as u64;
                bytes = &bytes[skipped..];
            }
            self.shown |= self.is_answer && self.body == 0;
        }
        news
    }

    fn begin_body(&mut self) {
        let mut numbers = self
            .header
            .chunks_exact(4)
            .map(|word| word.iter().fold(0, |number: u32, byte| number << 8 | u32::from(*byte)));
        let mut next = || numbers.next().unwrap_or_default();
        let (length, program, _version, procedure) = (next(), next(), next(), next());
        let (kind, _serial, status) = (next(), next(), next());
        self.body = u64::from(length).saturating_sub(HEADER_BYTES as u64);
        self.is_answer = (program, procedure, kind, status) == (REMOTE, FINISH, REPLY, OK);
        self.header.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(procedure: u32, kind: u32, status: u32, body: usize) -> Vec<u8> {
        let length = (HEADER_BYTES + body) as u32;
        let words = [length, REMOTE, 1, procedure, kind, 7, status];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.resize(length as usize, 0xff);
        bytes
    }

    #[test]
    fn an_answer_is_told_once_and_only_when_something_comes_after_it() {
        for cut in 1..80 {
            let mut watch = FinishWatch::default();
            let answer = [frame(303, REPLY, OK, 40), frame(FINISH, REPLY, OK, 40)].concat();
            let early = answer.chunks(cut).filter(|bytes| watch.has_passed(bytes)).count();
            assert_eq!(early, 0, "cut every {cut} bytes: it may not have been passed on");
            let after = frame(2, REPLY, OK, 0);
            let told: Vec<_> = after.chunks(cut).map(|bytes| watch.has_passed(bytes)).collect();
            assert_eq!(told.iter().position(|told| *told), Some(0));
            assert_eq!(told.iter().filter(|told| **told).count(), 1);
        }
    }

    #[test]
    fn nothing_else_is_taken_for_the_answer() {
        const ERROR: u32 = 1;
        const CALL: u32 = 0;
        for other in [
            frame(FINISH, REPLY, ERROR, 40),
            frame(FINISH, CALL, OK, 40),
            frame(303, REPLY, OK, 40),
            // An answer within the body of another frame.
            [&frame(303, REPLY, OK, 68)[..HEADER_BYTES], &frame(FINISH, REPLY, OK, 40)].concat(),
            // One whose end has not come.
            frame(FINISH, REPLY, OK, 40)[..60].to_vec(),
        ] {
            let mut watch = FinishWatch::default();
            assert!(!watch.has_passed(&other) && !watch.has_passed(&[]));
        }
    }
}
