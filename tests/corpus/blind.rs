// SPDX-License-Identifier: Apache-2.0
// Programs of the corpus in Rust, the blind half: PROGRAM SCENARIO PACE. labels.py says which functions leak.
#[path = "corpus.rs"]
mod corpus;
use corpus::{keep, random, Pace};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex, Weak};

/// What a request needs and gives back.
#[inline(never)]
fn serve(largest: u64) -> usize {
    let words: Vec<String> = (0..1 + random(6)).map(|i| "w".repeat((20 + i + random(largest)) as usize)).collect();
    words.concat().len()
}

// A hub of live updates keeps a Weak for each subscriber and never prunes them. The subscriber is gone, and its fields
// are dropped, but its 2 kB stay while a Weak knows them; 20 in a pace. Beside it: 30 that are connected.

struct Subscriber {
    scratch: [u8; 2000],
    queue: Mutex<VecDeque<String>>,
}

struct Hub {
    topic: Vec<Weak<Subscriber>>,
}

impl Hub {
    #[inline(never)]
    fn subscribe(&mut self, seed: u64) -> Arc<Subscriber> {
        let subscriber = Arc::new(Subscriber { scratch: [seed as u8; 2000], queue: Mutex::new(VecDeque::new()) });
        self.topic.push(Arc::downgrade(&subscriber));
        keep("Hub::subscribe", (std::mem::size_of::<Subscriber>() + 16) as u64, 1);
        subscriber
    }

    #[inline(never)]
    fn publish(&self, n: usize, text: &str) {
        for subscriber in self.topic.iter().rev().take(n).filter_map(Weak::upgrade) {
            let mut queue = subscriber.queue.lock().unwrap();
            queue.push_back(format!("{}{}", text, subscriber.scratch[7]));
            if queue.len() > 20 {
                queue.pop_front();
            }
        }
    }
}

fn weak_subscribers(mut pace: Pace) {
    let mut hub = Hub { topic: Vec::with_capacity(1 << 17) };
    let mut connected = VecDeque::new();
    loop {
        if pace.now % 5 == 0 {
            connected.push_back(hub.subscribe(pace.now));
            if connected.len() > 30 {
                connected.pop_front();
            }
        }
        hub.publish(30, "an update of 40 bytes, more or less; no ");
        serve(3000);
        pace.tick();
    }
}

// A driver gives the kernel a raw pointer with each operation and takes it back when the operation completes. A
// cancelled one (1 of 20) is never taken back: 24 bytes. The operations complete in another thread.

struct Operation {
    _file: u64,
    offset: u64,
    length: u64,
}

/// Its own function, as the label; a Box in the caller would do the same.
#[inline(never)]
fn submit_read(file: u64, offset: u64) -> usize {
    Box::into_raw(Box::new(Operation { _file: file, offset, length: 4096 })) as usize
}

#[inline(never)]
fn complete(operation: usize) -> u64 {
    let operation = unsafe { Box::from_raw(operation as *mut Operation) };
    let block = vec![1u8; operation.length as usize];
    block[(operation.offset % operation.length) as usize] as u64
}

fn completions(operations: Receiver<(usize, bool)>) {
    while let Ok((operation, cancelled)) = operations.recv() {
        if cancelled {
            keep("submit_read", std::mem::size_of::<Operation>() as u64, 1);
        } else {
            complete(operation);
        }
    }
}

fn cancelled_reads(mut pace: Pace) {
    let (sender, receiver) = channel();
    let mut pages: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    std::thread::spawn(move || completions(receiver));
    loop {
        for _ in 0..30 {
            let operation = submit_read(3, random(1 << 20));
            sender.send((operation, random(20) == 0)).unwrap();
        }
        pages.insert(random(600), vec![2u8; 4096]);
        if pages.len() > 200 {
            pages.pop_first();
        }
        serve(1000);
        pace.tick();
    }
}

// Bounded: a cache of 6 MB that admits by frequency. A newcomer takes the place of the oldest ones only if it was asked
// for more often; the counts are halved now and then. Entries have 0.2 to 50 kB.

const ROOM: usize = 6_000_000;

struct AdmittingCache {
    entries: HashMap<u64, Vec<u8>>,
    order: VecDeque<u64>,
    counts: Vec<u8>,
    asked: u64,
    size: usize,
}

impl AdmittingCache {
    #[inline(never)]
    fn load(key: u64) -> Vec<u8> {
        vec![key as u8; 200 + (key * 7919 % 224).pow(2) as usize]
    }

    #[inline(never)]
    fn get(&mut self, key: u64) -> usize {
        let count = &mut self.counts[key as usize];
        *count = count.saturating_add(1);
        self.asked += 1;
        if self.asked % 4000 == 0 {
            self.counts.iter_mut().for_each(|count| *count /= 2);
        }
        if let Some(entry) = self.entries.get(&key) {
            return entry.len();
        }
        let entry = Self::load(key);
        let size = entry.len();
        while self.size + size > ROOM {
            let oldest = self.order.pop_front().unwrap();
            if self.counts[oldest as usize] > self.counts[key as usize] {
                self.order.push_back(oldest);
                return size;
            }
            self.size -= self.entries.remove(&oldest).unwrap().len();
        }
        self.size += size;
        self.order.push_back(key);
        self.entries.insert(key, entry);
        size
    }
}

fn admitting_cache(mut pace: Pace) {
    let mut cache =
        AdmittingCache { entries: HashMap::new(), order: VecDeque::new(), counts: vec![0; 4096], asked: 0, size: 0 };
    loop {
        for _ in 0..6 {
            let key = random(64) * random(64);
            cache.get((key + pace.now / 8) % 4096);
        }
        serve(2000);
        pace.tick();
    }
}

fn main() {
    corpus::run(&[
        ("weak_subscribers", weak_subscribers),
        ("cancelled_reads", cancelled_reads),
        ("admitting_cache", admitting_cache),
    ]);
}
