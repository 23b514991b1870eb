// SPDX-License-Identifier: Apache-2.0
// What the programs in Rust share: the pace, and the truth in the lines that corpus.h describes.
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const TICKS: u64 = 100;
static BYTES: AtomicU64 = AtomicU64::new(0);
static BLOCKS: AtomicU64 = AtomicU64::new(0);
static NAME: Mutex<&str> = Mutex::new("");
static SEED: AtomicU64 = AtomicU64::new(88172645463325252);

/// Note that the one leaking function of a scenario has kept blocks; wraps round to take some away again.
pub fn keep(function: &'static str, bytes: u64, blocks: u64) {
    *NAME.lock().unwrap() = function;
    BYTES.fetch_add(bytes, Relaxed);
    BLOCKS.fetch_add(blocks, Relaxed);
}

pub fn random(below: u64) -> u64 {
    let mut x = SEED.load(Relaxed);
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    SEED.store(x, Relaxed);
    x % below
}

pub struct Pace {
    pub now: u64,
    start: Instant,
    pace: f64,
}

impl Pace {
    /// Wait for the next of 100 ticks of a pace; tell the truth four times in a pace.
    pub fn tick(&mut self) {
        self.now += 1;
        let at = self.start + Duration::from_secs_f64(self.now as f64 * self.pace / TICKS as f64);
        if let Some(wait) = at.checked_duration_since(Instant::now()) {
            std::thread::sleep(wait);
        }
        if self.now % (TICKS / 4) == 0 {
            let ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
            let name = *NAME.lock().unwrap();
            match name {
                "" => println!("T {}", ms),
                _ => println!("T {} {}={}/{}", ms, name, BYTES.load(Relaxed), BLOCKS.load(Relaxed)),
            }
            std::io::stdout().flush().unwrap();
        }
    }
}

pub fn run(scenarios: &[(&str, fn(Pace))]) {
    let words: Vec<String> = std::env::args().collect();
    let pace = words.get(2).map_or(1.0, |word| word.parse().unwrap());
    match scenarios.iter().find(|scenario| Some(scenario.0) == words.get(1).map(|word| word.as_str())) {
        Some((_, work)) => {
            println!("READY {}", std::process::id());
            work(Pace { now: 0, start: Instant::now(), pace });
        }
        None => {
            eprintln!("usage: PROGRAM SCENARIO PACE");
            std::process::exit(2);
        }
    }
}
