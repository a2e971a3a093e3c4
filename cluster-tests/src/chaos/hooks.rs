//! Faults that others install: each is a command, with one that takes it back.
//!
//! Hooks serve clusters that this program did not start: containers, virtual machines, another
//! product. A command that exits with 0 has installed its fault; any other exit code means that it
//! has not; after a timeout the outcome is unknown.

use std::process::Stdio;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::process::Command;

use super::boundary::Death;
use super::nemesis::{Breaker, Done};
use super::plan::Planned;
use crate::history::{PlannedFault, Recorder};
use crate::wait::Stopwatch;

/// The timeout of a command.
const COMMAND: Duration = Duration::from_secs(60);

/// A fault by its commands, which a shell runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hook {
    /// Its name in the history.
    pub name: String,
    /// Installs it.
    pub fault: String,
    /// Takes it back; `None` if it ends by itself.
    pub heal: Option<String>,
}

/// One entry of the schedule: a fault, its beginning and its length.
#[derive(Clone, PartialEq, Debug)]
struct Turn {
    at: Duration,
    lasts: Duration,
    hook: Hook,
}

/// Runs hooks by a schedule.
#[derive(Debug)]
pub struct Hooks {
    turns: Vec<Turn>,
    all: Vec<Hook>,
    recorder: Recorder,
    done: Done,
    findings: Vec<String>,
}

impl Hooks {
    /// The schedule drawn from a seed: one fault at a time, each kind once before any is repeated.
    pub fn new(
        all: Vec<Hook>,
        seed: u64,
        duration: Duration,
        every: Duration,
        recorder: Recorder,
    ) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut turns = Vec::new();
        let mut at = every.mul_f64(random.random_range(0.3..1.0));
        let mut first = all.clone();
        while at < duration {
            let Some(hook) = first.pop().or_else(|| all.choose(&mut random).cloned()) else {
                break;
            };
            let lasts = every.mul_f64(random.random_range(0.3..1.5));
            turns.push(Turn { at, lasts, hook });
            at += lasts + every.mul_f64(random.random_range(0.3..1.7));
        }
        Self { turns, all, recorder, done: Done::default(), findings: Vec::new() }
    }

    /// The number of times that each fault is planned.
    pub fn planned(&self) -> Vec<PlannedFault> {
        let count = |hook: &Hook| {
            self.turns.iter().filter(|turn| turn.hook.name == hook.name).count() as u64
        };
        self.all
            .iter()
            .map(|hook| PlannedFault { name: hook.name.clone(), at_least: count(hook) })
            .collect()
    }

    async fn turn(&mut self, turn: &Turn) -> String {
        let Hook { name, fault, heal } = &turn.hook;
        let mut open = self.recorder.begin_fault(name.as_str(), fault.as_str());
        match shell(fault).await {
            Ran::Well => {
                open.installed();
                self.done.installed += 1;
            }
            Ran::Failed(why) => {
                open.skipped(why.clone());
                open.end();
                self.done.skipped += 1;
                return format!("{name} skipped: {why}");
            }
            Ran::Unknown(why) => {
                open.indeterminate(why);
                self.done.indeterminate += 1;
            }
        }
        tokio::time::sleep(turn.lasts).await;
        if let Some(heal) = heal
            && let Ran::Failed(why) | Ran::Unknown(why) = shell(heal).await
        {
            self.done.indeterminate += 1;
            return format!("{name} may not have been healed: {why}");
        }
        open.end();
        format!("{name} for {:.1} s", turn.lasts.as_secs_f64())
    }
}

impl Breaker for Hooks {
    /// The nodes already run.
    async fn boot(&mut self, _plan: &[Planned], _told: &dyn Fn(String)) {}

    async fn execute(&mut self, _plan: &[Planned], told: &dyn Fn(String)) {
        let watch = Stopwatch::start();
        for turn in self.turns.clone() {
            tokio::time::sleep(turn.at.saturating_sub(watch.elapsed())).await;
            told(self.turn(&turn).await);
        }
    }

    /// Every fault is healed when its turn ends.
    async fn heal(&mut self) {}

    fn done(&self) -> Done {
        self.done
    }

    fn deaths(&self) -> &[Death] {
        &[]
    }

    fn findings(&self) -> &[String] {
        &self.findings
    }
}

enum Ran {
    Well,
    Failed(String),
    Unknown(String),
}

async fn shell(command: &str) -> Ran {
    let child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(COMMAND, child).await {
        Ok(Ok(output)) if output.status.success() => Ran::Well,
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Ran::Failed(format!("`{command}` ended with {}: {}", output.status, said.trim()))
        }
        Ok(Err(error)) => Ran::Failed(format!("`{command}` does not start: {error}")),
        Err(_) => Ran::Unknown(format!("`{command}` did not end within {COMMAND:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(name: &str, fault: &str, heal: Option<&str>) -> Hook {
        Hook { name: name.into(), fault: fault.into(), heal: heal.map(Into::into) }
    }

    async fn ran(hook: Hook) -> Done {
        let (duration, every) = (Duration::from_millis(60), Duration::from_millis(50));
        let mut hooks = Hooks::new(vec![hook], 1, duration, every, Recorder::in_memory());
        assert_eq!(hooks.planned()[0].at_least, 1);
        hooks.execute(&[], &|_| {}).await;
        hooks.done()
    }

    #[tokio::test]
    async fn commands_install_and_heal() {
        let folder = tempfile::tempdir().expect("a folder");
        let mark = folder.path().join("mark");
        let touch = format!("touch {}", mark.display());
        let remove = format!("mv {0} {0}.healed", mark.display());
        let done = ran(hook("fire", &touch, Some(&remove))).await;
        assert_eq!(done, Done { installed: 1, ..Done::default() });
        assert!(folder.path().join("mark.healed").exists());
    }

    #[tokio::test]
    async fn a_command_that_fails_installs_nothing_and_one_that_cannot_heal_is_told() {
        assert_eq!(ran(hook("fire", "exit 3", None)).await, Done { skipped: 1, ..Done::default() });
        let done = ran(hook("fire", "true", Some("exit 3"))).await;
        assert_eq!(done, Done { installed: 1, indeterminate: 1, ..Done::default() });
    }
}
