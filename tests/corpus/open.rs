// SPDX-License-Identifier: Apache-2.0
// Programs of the corpus in Rust, the open half: PROGRAM SCENARIO PACE. labels.py says which functions leak.
#[path = "corpus.rs"]
mod corpus;
use corpus::{keep, random, Pace};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::mpsc::{channel, Sender};

#[inline(never)]
fn render(seed: u64) -> usize {
    let page: Vec<u8> = (0..200 + random(800)).map(|i| (i ^ seed) as u8).collect();
    page.iter().filter(|byte| **byte > 7).count()
}

struct SessionStore {
    by_id: HashMap<u64, Vec<u8>>,
}

impl SessionStore {
    #[inline(never)]
    fn insert(&mut self, id: u64) {
        self.by_id.insert(id, vec![1u8; 1500]);
        keep("SessionStore::insert", 1500, 1);
    }
}

fn map_leak(mut pace: Pace) {
    let mut store = SessionStore { by_id: HashMap::with_capacity(1 << 16) };
    loop {
        render(pace.now);
        if pace.now % 4 == 0 {
            store.insert(pace.now);
        }
        pace.tick();
    }
}

#[inline(never)]
fn intern_name(n: u64) -> &'static str {
    keep("intern_name", 1200, 1);
    let mut name = format!("name-{:08}-", n);
    name.extend(std::iter::repeat('x').take(1200 - name.len()));
    Box::leak(name.into_boxed_str())
}

fn boxes(mut pace: Pace) {
    loop {
        render(pace.now);
        if pace.now % 3 == 0 {
            intern_name(pace.now);
        }
        pace.tick();
    }
}

struct FrameQueue {
    frames: VecDeque<Vec<u8>>,
}

impl FrameQueue {
    #[inline(never)]
    fn push(&mut self) {
        self.frames.push_back(vec![2u8; 3000 + random(500) as usize]);
        if self.frames.len() > 250 {
            self.frames.pop_front();
        }
    }
}

fn bounded_queue(mut pace: Pace) {
    let mut queue = FrameQueue { frames: VecDeque::new() };
    loop {
        queue.push();
        queue.push();
        pace.tick();
    }
}

struct Span {
    _text: String,
    parent: RefCell<Option<Rc<Span>>>,
}

#[inline(never)]
fn trace_span(n: u64) {
    let span = Rc::new(Span { _text: "s".repeat(1100), parent: RefCell::new(None) });
    if n % 3 == 0 {
        *span.parent.borrow_mut() = Some(Rc::clone(&span));
        keep("trace_span", 1100 + 64, 2);
    }
}

fn cycles(mut pace: Pace) {
    loop {
        render(pace.now);
        trace_span(pace.now);
        pace.tick();
    }
}

struct Lines {
    sender: Sender<Vec<u8>>,
}

impl Lines {
    #[inline(never)]
    fn publish(&self) {
        self.sender.send(vec![3u8; 900]).unwrap();
    }
}

fn slow_reader(mut pace: Pace) {
    let (sender, receiver) = channel();
    let lines = Lines { sender };
    loop {
        lines.publish();
        lines.publish();
        if receiver.try_recv().is_ok() {
            keep("Lines::publish", 900, 1);
        }
        pace.tick();
    }
}

fn main() {
    corpus::run(&[
        ("map_leak", map_leak),
        ("boxes", boxes),
        ("bounded_queue", bounded_queue),
        ("cycles", cycles),
        ("slow_reader", slow_reader),
    ]);
}
