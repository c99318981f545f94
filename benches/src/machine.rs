//! What machine it was: figures mean nothing without it.

use serde_json::{Map, Value, json};

/// Where Linux says whether it shares out processors by session, as PostgreSQL's processes each are one.
const AUTOGROUP: &str = "/proc/sys/kernel/sched_autogroup_enabled";

/// The machine's processor, cores, memory and operating system, and how that shares out the processors.
pub(crate) fn describe() -> Map<String, Value> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut machine = Map::new();
    machine.insert("cpu".into(), field("/proc/cpuinfo", "model name").into());
    machine.insert("cores".into(), json!(cores));
    machine.insert("memory".into(), field("/proc/meminfo", "MemTotal").into());
    machine.insert("os".into(), json!(std::env::consts::OS));
    machine.insert("arch".into(), json!(std::env::consts::ARCH));
    if let Ok(enabled) = std::fs::read_to_string(AUTOGROUP) {
        machine.insert("sched_autogroup".into(), enabled.trim().into());
    }
    machine
}

/// What a file of Linux's `/proc` says under a name; empty elsewhere.
fn field(file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
    line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}
