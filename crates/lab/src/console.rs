//! What a guest says on its console, and what that proves.
//!
//! A guest numbers its reports. If they go on without a gap, a repetition or a new beginning, the
//! guest was neither lost, nor run twice, nor started anew; if no page is bad, its memory arrived.

use std::fmt;

/// One report of a guest; see `guest/README.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// One more than in the report before; 0 only at boot.
    pub sequence: u32,
    /// Time since boot by the guest's own clock, in milliseconds.
    pub up_ms: u32,
    /// The longest time since boot that the guest did not get to run, in milliseconds.
    pub gap_ms_max: u32,
    /// The share of a CPU that it is to burn, in permille.
    pub burn_permille: u32,
    /// The area that it is to dirty, in MiB, and how fast, in MiB/s.
    pub dirty: crate::Dirty,
    /// Pages verified since boot.
    pub pages_checked: u32,
    /// Pages among them that did not hold what was written.
    pub pages_bad: u32,
}

/// A piece of a console's stream that is to be a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Report(Report),
    /// An error message of the guest, without its mark.
    Complaint(&'a str),
    /// Neither, nor empty.
    Garbage,
}

impl Report {
    /// Reads `$ek seq=… … bad=…*CRC`.
    fn parse(line: &str) -> Option<Self> {
        let (body, crc) = line.strip_prefix('$')?.split_once('*')?;
        if crc.len() != 4 || u16::from_str_radix(crc, 16).ok()? != crc16(body.as_bytes()) {
            return None;
        }
        let mut words = body.split(' ');
        if words.next() != Some("ek") {
            return None;
        }
        let mut field = |name: &str| words.next()?.strip_prefix(name)?.strip_prefix('=');
        let (sequence, up_ms, gap_ms_max, burn) =
            (field("seq")?, field("up_ms")?, field("gap_max_ms")?, field("burn")?);
        let (mib, mib_per_s) = field("dirty")?.split_once(':')?;
        let (checked, bad) = (field("checked")?, field("bad")?);
        let number = |text: &str| text.parse().ok();
        Some(Self {
            sequence: number(sequence)?,
            up_ms: number(up_ms)?,
            gap_ms_max: number(gap_ms_max)?,
            burn_permille: number(burn)?,
            dirty: crate::Dirty { mib: number(mib)?, mib_per_s: number(mib_per_s)? },
            pages_checked: number(checked)?,
            pages_bad: number(bad)?,
        })
    }
}

/// CRC-16 with polynomial 0x1021 and initial value 0xFFFF.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xffff, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

pub(crate) fn parse_line(line: &str) -> Option<Line<'_>> {
    let line = line.trim_matches(['\r', '\n', '\0', ' ']);
    if line.is_empty() {
        return None;
    }
    if let Some(complaint) = line.strip_prefix('?') {
        return Some(Line::Complaint(complaint));
    }
    Some(Report::parse(line).map_or(Line::Garbage, Line::Report))
}

/// The stream of a guest's console so far, from wherever it ran.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Console {
    /// The reports, in the order they were written.
    pub reports: Vec<Report>,
    /// Error messages of the guest.
    pub complaints: Vec<String>,
    /// Lines that are no whole report. The last line, which may not be finished, does not count.
    pub torn_lines: usize,
}

impl Console {
    /// Reads a console's stream.
    #[must_use]
    pub fn parse(stream: &[u8]) -> Self {
        let mut console = Self::default();
        let finished = stream.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in String::from_utf8_lossy(&stream[..finished]).lines() {
            match parse_line(line) {
                Some(Line::Report(report)) => console.reports.push(report),
                Some(Line::Complaint(text)) => console.complaints.push(text.to_owned()),
                Some(Line::Garbage) => console.torn_lines += 1,
                None => {}
            }
        }
        console
    }

    /// The latest report.
    #[must_use]
    pub fn last(&self) -> Option<&Report> {
        self.reports.last()
    }

    /// What the stream proves.
    #[must_use]
    pub fn verify(&self) -> Verdict {
        let mut verdict = Verdict {
            reports: self.reports.len(),
            complaints: self.complaints.len(),
            torn_lines: self.torn_lines,
            starts_at_boot: self.reports.first().is_some_and(|first| first.sequence == 0),
            ..Verdict::default()
        };
        for pair in self.reports.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            if after.sequence == 0 || after.up_ms < before.up_ms {
                verdict.restarts += 1;
            } else if after.sequence <= before.sequence {
                verdict.repeated += 1;
            } else {
                verdict.missing += (after.sequence - before.sequence - 1) as usize;
            }
        }
        if let Some(last) = self.reports.last() {
            verdict.gap_ms_max = last.gap_ms_max;
            verdict.pages_checked = last.pages_checked;
        }
        verdict.pages_bad = self.reports.iter().map(|report| report.pages_bad).max().unwrap_or(0);
        verdict
    }
}

/// What a console's stream proves of its guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Reports read.
    pub reports: usize,
    /// Whether the first of them was the guest's first.
    pub starts_at_boot: bool,
    /// Reports that are not there.
    pub missing: usize,
    /// Reports that came again or out of order: the guest ran in two places.
    pub repeated: usize,
    /// New beginnings: the guest was booted again.
    pub restarts: usize,
    /// Lines that are no whole report.
    pub torn_lines: usize,
    /// Error messages of the guest.
    pub complaints: usize,
    /// Pages that the guest verified.
    pub pages_checked: u32,
    /// Pages that did not hold what was written.
    pub pages_bad: u32,
    /// The longest time that the guest did not get to run, in milliseconds of its own clock, which
    /// stands still in the downtime of a migration.
    pub gap_ms_max: u32,
}

impl Verdict {
    /// Whether the guest lived through everything unharmed, as far as its console can show.
    #[must_use]
    pub fn is_unharmed(&self) -> bool {
        self.reports > 0
            && self.starts_at_boot
            && self.missing + self.repeated + self.restarts + self.torn_lines + self.complaints == 0
            && self.pages_bad == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} reports, {} pages verified", self.reports, self.pages_checked)?;
        if !self.starts_at_boot {
            write!(f, ", the first report is not there")?;
        }
        for (count, what) in [
            (self.missing, "reports missing"),
            (self.repeated, "reports repeated"),
            (self.restarts, "restarts"),
            (self.torn_lines, "torn lines"),
            (self.complaints, "errors"),
            (self.pages_bad as usize, "bad pages"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(sequence: u32, up_ms: u32, bad: u32) -> String {
        let body = format!(
            "ek seq={sequence} up_ms={up_ms} gap_max_ms=11 burn=250 dirty=8:4 checked=3072 bad={bad}"
        );
        format!("${body}*{:04X}\r\n", crc16(body.as_bytes()))
    }

    #[test]
    fn a_report_as_the_guest_writes_it_is_understood() {
        let text =
            "$ek seq=19 up_ms=3413 gap_max_ms=11 burn=500 dirty=4:0 checked=1446 bad=0*0441\r\n";
        let console = Console::parse(text.as_bytes());
        assert_eq!(
            console.reports,
            [Report {
                sequence: 19,
                up_ms: 3413,
                gap_ms_max: 11,
                burn_permille: 500,
                dirty: crate::Dirty { mib: 4, mib_per_s: 0 },
                pages_checked: 1446,
                pages_bad: 0,
            }]
        );
    }

    #[test]
    fn the_checksum_is_the_common_one() {
        assert_eq!(crc16(b"123456789"), 0x29b1);
    }

    #[test]
    fn every_harm_to_a_guest_shows_in_the_verdict() {
        let whole: String = (0..4).map(|n| line(n, n * 200, 0)).collect();
        let cut = whole.len() - 30;
        for (what, stream, expected) in [
            ("nothing", whole.clone(), Verdict { reports: 4, ..unharmed() }),
            (
                "an unfinished last line",
                whole[..cut].to_owned(),
                Verdict { reports: 3, ..unharmed() },
            ),
            (
                "a missing report",
                line(0, 0, 0) + &line(2, 400, 0),
                Verdict { missing: 1, ..unharmed() },
            ),
            (
                "two instances",
                line(0, 0, 0) + &line(0, 0, 0),
                Verdict { restarts: 1, ..unharmed() },
            ),
            (
                "two instances later on",
                whole.clone() + &line(3, 600, 0),
                Verdict { reports: 5, repeated: 1, ..unharmed() },
            ),
            (
                "a restart",
                whole.clone() + &line(0, 0, 0),
                Verdict { reports: 5, restarts: 1, ..unharmed() },
            ),
            (
                "bad memory",
                line(0, 0, 0) + &line(1, 200, 7),
                Verdict { pages_bad: 7, ..unharmed() },
            ),
            (
                "a line cut in two",
                whole.replace("seq=2", "seq\n=2"),
                Verdict { reports: 3, missing: 1, torn_lines: 2, ..unharmed() },
            ),
            (
                "a changed digit",
                whole.replace("up_ms=400", "up_ms=401"),
                Verdict { reports: 3, missing: 1, torn_lines: 1, ..unharmed() },
            ),
        ] {
            let verdict = Console::parse(stream.as_bytes()).verify();
            assert_eq!(verdict, expected, "{what}");
            let harmless = what == "nothing" || what == "an unfinished last line";
            assert_eq!(verdict.is_unharmed(), harmless, "{what}: {verdict}");
        }
    }

    fn unharmed() -> Verdict {
        Verdict {
            reports: 2,
            starts_at_boot: true,
            pages_checked: 3072,
            gap_ms_max: 11,
            ..Verdict::default()
        }
    }

    #[test]
    fn silence_proves_nothing() {
        assert!(!Console::parse(b"").verify().is_unharmed());
    }
}
