//! Reading traces: what real machines used over time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_core::model::Resources;

/// What machines used over time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// How long one tick lasts.
    pub tick: Duration,
    /// Every machine; all have the same number of ticks.
    pub machines: Vec<Vec<Resources>>,
}

impl Trace {
    /// How many ticks it has.
    #[must_use]
    pub fn ticks(&self) -> usize {
        self.machines.first().map_or(0, Vec::len)
    }
}

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A file cannot be read.
    #[error("cannot read the trace `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("the trace `{path}` cannot be used: {why}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Five minutes, in which Bitbrains and PlanetLab were measured.
pub const TICK: Duration = Duration::from_secs(300);
/// Clock of the cores that Bitbrains' megahertz are counted in here.
const MHZ_OF_A_CORE: f64 = 2600.0;
const MIB: f64 = 1_048_576.0;
/// Largest file taken, decompressed.
const BYTES_MAX: u64 = 1 << 30;
/// Most usages of a trace in a file, of all machines together: five times a month of Bitbrains.
const USAGES_MAX: u64 = 20_000_000;

fn read(path: &Path) -> Result<Vec<u8>, TraceError> {
    let failed = |source| TraceError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    if path.extension().is_some_and(|extension| extension == "zst") {
        let decoder = ruzstd::decoding::StreamingDecoder::new(file)
            .map_err(|e| form(path, format!("it is no zstd file: {e}")))?;
        decoder.take(BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    }
    Ok(bytes)
}

fn form(path: &Path, why: impl Into<String>) -> TraceError {
    TraceError::Form { path: path.to_owned(), why: why.into() }
}

/// One metric of Bitbrains, a row of `ticks` for every machine: little-endian, missing values are all
/// ones and read as the last one before.
fn matrix(dir: &Path, month: &str, name: &str, bytes_each: usize) -> Result<Vec<f64>, TraceError> {
    let plain = dir.join(format!("{month}.{name}.uint{}.le", bytes_each * 8));
    let mut packed = plain.clone().into_os_string();
    packed.push(".zst");
    let bytes = if plain.exists() { read(&plain)? } else { read(Path::new(&packed))? };
    let missing = u64::MAX >> (64 - 8 * bytes_each);
    let mut last = 0.0;
    let value = |chunk: &[u8]| {
        let raw = chunk.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        if raw != missing {
            last = raw as f64;
        }
        last
    };
    Ok(bytes.chunks_exact(bytes_each).map(value).collect())
}

/// What the file beside the metrics of Bitbrains says of them: `MONTH.json`.
#[derive(serde::Deserialize)]
struct Month {
    month: String,
    ticks: usize,
    tick_seconds: u64,
}

/// The month that is in a directory: as its `MONTH.json` says, or by the names of its files a whole
/// month in ticks of five minutes. Of several the first.
fn month_in(dir: &Path) -> Result<Month, TraceError> {
    let failed = |source| TraceError::Read { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort();
    if let Some(name) = names.iter().find(|name| name.ends_with(".json")) {
        let path = dir.join(name);
        let text = read(&path)?;
        return serde_json::from_slice(&text).map_err(|why| form(&path, why.to_string()));
    }
    let metric = names.iter().find_map(|name| name.split_once(".cpu_permille."));
    let Some((month, _)) = metric else {
        return Err(form(dir, "it has no file `MONTH.cpu_permille.uint16.le`, also with `.zst`"));
    };
    let days = days_of(month).ok_or_else(|| {
        form(
            dir,
            format!("`{month}` is no month like `2013-8`, and no `{month}.json` says its ticks"),
        )
    })?;
    let ticks = days * (86_400 / TICK.as_secs() as usize);
    Ok(Month { month: month.to_owned(), ticks, tick_seconds: TICK.as_secs() })
}

/// The days of a month like `2013-8`.
fn days_of(month: &str) -> Option<usize> {
    let (year, month) = month.split_once('-')?;
    let (year, month): (u32, u32) = (year.parse().ok()?, month.parse().ok()?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    Some(match month {
        2 => 28 + usize::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    })
}

/// A month of Bitbrains GWA-T-12 "rnd" as one file a metric (`MONTH.METRIC.uintN.le`, also with
/// `.zst`): CPU in cores of 2.6 GHz, memory used, disk and network together. How many ticks of which
/// length it has, `MONTH.json` says.
///
/// # Errors
/// When a file is missing or not of that form.
pub fn bitbrains(dir: &Path, ticks: impl Fn(Duration) -> usize) -> Result<Trace, TraceError> {
    let of = month_in(dir)?;
    let (name, month) = (of.month.as_str(), of.ticks);
    let tick = Duration::from_secs(of.tick_seconds);
    let ticks = ticks(tick);
    let (cpu, cap) = (matrix(dir, name, "cpu_permille", 2)?, matrix(dir, name, "cpu_cap_mhz", 4)?);
    let (memory, disk) = (matrix(dir, name, "mem_mib", 4)?, matrix(dir, name, "disk_kbps", 4)?);
    let net = matrix(dir, name, "net_kbps", 4)?;
    let values = cpu.len();
    if values == 0 || month == 0 || values % month != 0 || of.tick_seconds == 0 {
        let why =
            format!("{values} values of `cpu_permille` are no machines of {month} ticks each");
        return Err(form(dir, why));
    }
    for (name, len) in [("cap", cap.len()), ("mem", memory.len()), ("disk", disk.len())] {
        if len != values {
            return Err(form(dir, format!("{len} values of `{name}`, {values} of CPU")));
        }
    }
    let usage = |at: usize| Resources {
        cpu_cores: cpu[at] / 1000.0 * cap[at] / MHZ_OF_A_CORE,
        memory_bytes: memory[at] * MIB,
        io_bytes_per_s: (disk[at] + net.get(at).copied().unwrap_or(0.0)) * 1000.0,
    };
    let machine = |vm: usize| (0..ticks.min(month)).map(|t| usage(vm * month + t)).collect();
    Ok(Trace { tick, machines: (0..values / month).map(machine).collect() })
}

/// A day of PlanetLab, `DATE.NxT.u8`: a byte of percent for each of T ticks of N machines. A machine
/// is taken to have one core and to occupy 1 GB.
///
/// # Errors
/// When the file cannot be read or its name does not say how many ticks it has.
pub fn planetlab(file: &Path) -> Result<Trace, TraceError> {
    let named = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let ticks = named.split('.').find_map(|part| part.split_once('x')?.1.parse::<usize>().ok());
    let ticks = ticks
        .filter(|&ticks| ticks > 0)
        .ok_or_else(|| form(file, "its name should be like `20110303.1052x288.u8`"))?;
    let usage = |&percent: &u8| Resources {
        cpu_cores: f64::from(percent) / 100.0,
        memory_bytes: 1e9,
        io_bytes_per_s: 0.0,
    };
    let bytes = read(file)?;
    let machines = bytes.chunks_exact(ticks).map(|day| day.iter().map(usage).collect()).collect();
    Ok(Trace { tick: TICK, machines })
}

/// The header of our own form.
const HEADER: &str = "seconds,machine,cpu_cores,memory_bytes,io_bytes_per_s";

/// Our own form: lines of `seconds,machine,cpu_cores,memory_bytes,io_bytes_per_s` under that header,
/// each of which says what a machine uses from then on. Ticks are as long as the least time between
/// two lines.
///
/// # Errors
/// When the file cannot be read, or the line that is not of that form.
pub fn csv(file: &Path) -> Result<Trace, TraceError> {
    let text = String::from_utf8(read(file)?).map_err(|_| form(file, "it is no text"))?;
    parse_csv(&text, USAGES_MAX).map_err(|why| form(file, why))
}

/// The same of a file's text. A few lines may say a lot: at most `usages_max` usages are made of them,
/// of all machines together.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_csv(text: &str, usages_max: u64) -> Result<Trace, String> {
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    if lines.next() != Some(HEADER) {
        return Err(format!("its first line should be `{HEADER}`"));
    }
    let mut said: BTreeMap<String, BTreeMap<u64, Resources>> = BTreeMap::new();
    let mut times = BTreeSet::from([0]);
    for line in lines {
        let (machine, at, usage) =
            csv_line(line).ok_or_else(|| format!("`{line}` is no line of `{HEADER}`"))?;
        times.insert(at);
        said.entry(machine).or_default().insert(at, usage);
    }
    let last = times.last().copied().unwrap_or_default();
    let gap = times.iter().zip(times.iter().skip(1)).map(|(a, b)| b - a).min();
    let tick = gap.unwrap_or(TICK.as_secs());
    let ticks = (last / tick).saturating_add(1);
    if ticks.saturating_mul(said.len() as u64) > usages_max {
        let machines = said.len();
        return Err(format!("{last} s in ticks of {tick} s are too many for {machines} machines"));
    }
    let machine = |steps: &BTreeMap<u64, Resources>| {
        let usage = |t: u64| steps.range(..=t * tick).next_back().map(|(_, usage)| *usage);
        (0..ticks).map(|t| usage(t).unwrap_or(Resources::ZERO)).collect()
    };
    let machines = said.values().map(machine).collect();
    Ok(Trace { tick: Duration::from_secs(tick), machines })
}

fn csv_line(line: &str) -> Option<(String, u64, Resources)> {
    let mut fields = line.split(',').map(str::trim);
    let at = fields.next()?.parse().ok()?;
    let machine = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let mut amount = || fields.next()?.parse::<f64>().ok().filter(|v| v.is_finite() && *v >= 0.0);
    let (cpu_cores, memory_bytes, io_bytes_per_s) = (amount()?, amount()?, amount()?);
    let usage = Resources { cpu_cores, memory_bytes, io_bytes_per_s };
    fields.next().is_none().then_some((machine, at, usage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_has_as_many_ticks_as_its_files_say() {
        let dir = std::env::temp_dir().join(format!("evenkeel-month-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let write = |name: &str, bytes: Vec<u8>| {
            std::fs::write(dir.join(name), bytes).expect("a file");
        };
        // Two machines, three ticks of a minute.
        let wide = |of: &str, value: u32| {
            write(&format!("2013-9.{of}.uint32.le"), value.to_le_bytes().repeat(6));
        };
        write(
            "2013-9.cpu_permille.uint16.le",
            [500u16, 500, 500, 250, 250, 250].map(u16::to_le_bytes).concat(),
        );
        for (metric, value) in
            [("cpu_cap_mhz", 2600), ("mem_mib", 1), ("disk_kbps", 1), ("net_kbps", 1)]
        {
            wide(metric, value);
        }
        let error = bitbrains(&dir, |_| 9).expect_err("no month of 30 days").to_string();
        assert!(error.contains("8640 ticks"), "{error}");
        write("2013-9.json", br#"{"month": "2013-9", "ticks": 3, "tick_seconds": 60}"#.to_vec());
        let trace = bitbrains(&dir, |_| 9).expect("a trace");
        assert_eq!(
            (trace.tick, trace.machines.len(), trace.ticks()),
            (Duration::from_secs(60), 2, 3)
        );
        assert_eq!(trace.machines[1][2].cpu_cores, 0.25);
        std::fs::remove_dir_all(&dir).expect("it is there");
        assert_eq!(
            ["2013-2", "2012-2", "2013-9", "2013-8"].map(days_of),
            [28, 29, 30, 31].map(Some)
        );
    }

    #[test]
    fn a_machine_uses_what_its_last_line_says() {
        let file = std::env::temp_dir().join(format!("evenkeel-trace-{}", std::process::id()));
        std::fs::write(&file, format!("{HEADER}\n0,a,1,10,0\n60,b,3,30,0\n120,a,2,20,5\n"))
            .expect("a file");
        let trace = csv(&file).expect("a trace");
        assert_eq!((trace.tick, trace.ticks()), (Duration::from_secs(60), 3));
        let cpu = |machine: usize| -> Vec<f64> {
            trace.machines[machine].iter().map(|usage| usage.cpu_cores).collect()
        };
        assert_eq!((cpu(0), cpu(1)), (vec![1.0, 1.0, 2.0], vec![0.0, 3.0, 3.0]));
        std::fs::write(&file, format!("{HEADER}\n0,a,much,10,0\n")).expect("a file");
        let error = csv(&file).expect_err("no number").to_string();
        assert!(error.contains("0,a,much,10,0"), "{error}");
        std::fs::remove_file(&file).expect("it is there");
    }
}
