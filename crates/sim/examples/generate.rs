//! Makes up a cluster and writes it as a snapshot: `generate uniform|mixed HOSTS MACHINES [SEED]`.
//! This is how the files in `data/` were made.
#![allow(clippy::print_stdout, reason = "an example prints")]

use evenkeel_sim::generate::{Recipe, generate};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().ok_or_else(|| format!("which {what}?"));
    let kind = next("kind, uniform or mixed")?;
    let (hosts, machines) =
        (next("number of hosts")?.parse()?, next("number of machines")?.parse()?);
    let recipe = match kind.as_str() {
        "uniform" => Recipe::uniform(hosts, machines),
        "mixed" => Recipe::mixed(hosts, machines),
        _ => return Err(format!("`{kind}` is neither uniform nor mixed").into()),
    };
    let seed = args.next().map_or(Ok(1), |text| text.parse())?;
    println!("{}", generate(&recipe, seed)?.to_json()?);
    Ok(())
}
