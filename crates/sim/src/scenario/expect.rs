//! `[expect]`: bounds on the figures of a report, by which a scenario is a test.
//!
//! A key is the name of a figure and `_min` or `_max`; the parts of a figure and the keys of a map
//! are joined by `_`, or written as a table: `cv_mean_max = 0.2`, `verdicts.RULE_PINNED_min = 1`.

use evenkeel_config::nearest;
use evenkeel_core::decision::Reason;
use serde::Serialize;
use serde_json::Value;

use super::ScenarioError;
use super::report::Report;

/// A bound that a figure does not keep.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unmet {
    /// The key of `[expect]`.
    pub key: String,
    /// The bound.
    pub bound: f64,
    /// The figure; `None` where there is none.
    pub found: Option<f64>,
}

/// Where a figure is in a report, and on which side the bound is.
#[derive(Clone, Debug, PartialEq)]
struct Bound {
    key: String,
    path: Vec<String>,
    least: bool,
    value: f64,
}

/// Maps whose keys are not known beforehand: what is not there is 0.
const MAPS: [&str; 4] = ["endings", "verdicts", "moves_of", "mishaps"];

/// Every figure that a report has, as a path.
fn figures() -> Vec<Vec<String>> {
    let report = serde_json::to_value(Report::default()).unwrap_or_default();
    let mut found = Vec::new();
    for (name, value) in report.as_object().into_iter().flatten() {
        match value {
            Value::Object(parts) if !parts.is_empty() => {
                found.extend(parts.keys().map(|part| vec![name.clone(), part.clone()]));
            }
            Value::Number(_) | Value::Null => found.push(vec![name.clone()]),
            _ => {}
        }
    }
    found
}

fn bounds(table: &toml::Table) -> Result<Vec<Bound>, ScenarioError> {
    let figures = figures();
    let mut bounds = Vec::new();
    for (key, value) in table {
        match value.as_table() {
            Some(inner) if MAPS.contains(&key.as_str()) => {
                for (name, value) in inner {
                    let (figure, bound) = split(key, name, value)?;
                    if matches!(key.as_str(), "endings" | "verdicts") {
                        is_reason(key, &figure)?;
                    }
                    bounds.push(Bound { path: vec![key.clone(), figure], ..bound });
                }
            }
            Some(_) => {
                let why = format!("it is no map of figures: {}", MAPS.join(", "));
                return Err(ScenarioError::Expect { key: key.clone(), why });
            }
            None => {
                let (figure, bound) = split("", key, value)?;
                let path = figures.iter().find(|path| path.join("_") == figure).cloned();
                let path = path.ok_or_else(|| no_such_figure(key, &figure, &figures))?;
                bounds.push(Bound { path, ..bound });
            }
        }
    }
    Ok(bounds)
}

/// The name of a figure, and the bound without its path.
fn split(table: &str, name: &str, value: &toml::Value) -> Result<(String, Bound), ScenarioError> {
    let key = if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") };
    let refuse = |why: &str| ScenarioError::Expect { key: key.clone(), why: why.to_owned() };
    let (figure, least) = match (name.strip_suffix("_min"), name.strip_suffix("_max")) {
        (Some(figure), _) => (figure, true),
        (_, Some(figure)) => (figure, false),
        _ => return Err(refuse("a key ends in `_min` or `_max`")),
    };
    let number = value.as_float().or_else(|| value.as_integer().map(|number| number as f64));
    let value = number.ok_or_else(|| refuse("a bound is a number"))?;
    Ok((figure.to_owned(), Bound { key: key.clone(), path: Vec::new(), least, value }))
}

fn no_such_figure(key: &str, figure: &str, figures: &[Vec<String>]) -> ScenarioError {
    let names: Vec<_> = figures.iter().map(|path| path.join("_")).collect();
    let hint = nearest(figure, names.iter().map(String::as_str));
    let hint = hint.map_or_else(String::new, |name| format!(": did you mean `{name}`?"));
    let why = format!("a report has no figure `{figure}`{hint}");
    ScenarioError::Expect { key: key.to_owned(), why }
}

fn is_reason(key: &str, code: &str) -> Result<(), ScenarioError> {
    if Reason::ALL.iter().any(|reason| reason.code() == code) {
        return Ok(());
    }
    let hint = nearest(code, Reason::ALL.iter().map(|reason| reason.code()));
    let hint = hint.map_or_else(String::new, |code| format!(": did you mean `{code}`?"));
    let why = format!("there is no reason `{code}`{hint}");
    Err(ScenarioError::Expect { key: key.to_owned(), why })
}

pub(super) fn check(table: &toml::Table) -> Result<(), ScenarioError> {
    bounds(table).map(|_| ())
}

/// Which bounds the figures of a report do not keep.
pub(super) fn unmet(table: &toml::Table, report: &Report) -> Result<Vec<Unmet>, ScenarioError> {
    let report = serde_json::to_value(report).unwrap_or_default();
    let mut unmet = Vec::new();
    for bound in bounds(table)? {
        let mut found = Some(&report);
        for part in &bound.path {
            found = found.and_then(|value| value.get(part));
        }
        let mut found = found.and_then(Value::as_f64);
        if found.is_none() && MAPS.contains(&bound.path[0].as_str()) {
            found = Some(0.0);
        }
        // What never happened was not too late.
        let kept = match found {
            Some(figure) if bound.least => figure >= bound.value,
            Some(figure) => figure <= bound.value,
            None => !bound.least,
        };
        if !kept {
            unmet.push(Unmet { key: bound.key, bound: bound.value, found });
        }
    }
    Ok(unmet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(expect: &str) -> String {
        let table: toml::Table = expect.parse().expect("TOML");
        check(&table).expect_err("a mistake").to_string()
    }

    #[test]
    fn a_bound_on_what_no_report_has_is_named_with_the_nearest_figure() {
        for (expect, says) in [
            ("cv_meen_max = 1", "did you mean `cv_mean`"),
            ("cv_mean = 1", "`_min` or `_max`"),
            ("cv_mean_max = 'low'", "a number"),
            ("verdicts.RULE_PINED_min = 1", "did you mean `RULE_PINNED`"),
            ("figures.cv_max = 1", "no map"),
        ] {
            let error = errors(expect);
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn bounds_are_kept_or_named_with_what_was_found() {
        let mut report = Report { migrations: 3, ..Report::default() };
        report.cv.mean = 0.3;
        let table = "migrations_max = 3\ncv_mean_max = 0.2\nfirst_migration_s_max = 5\n\
                     verdicts.RULE_PINNED_min = 1\nendings.BUSY_max = 0";
        let unmet = unmet(&table.parse().expect("TOML"), &report).expect("known keys");
        let keys: Vec<_> = unmet.iter().map(|u| (u.key.as_str(), u.found)).collect();
        assert_eq!(keys, [("cv_mean_max", Some(0.3)), ("verdicts.RULE_PINNED_min", Some(0.0))]);
    }
}
