// SPDX-License-Identifier: Apache-2.0
//! Holds and loses blocks as Rust does: boxes, vectors, maps, cycles of Rc, trait objects. Prints its truth as JSON.
//!
//! No block that is held has bytes that were never written: they may be the rest of an old pointer. Its upper half behind
//! four bytes of a text or of a filling was the address of a lost block in one run of 30. So vectors fill their blocks
//! (104 bytes of 112), and collections have their size from the beginning: no old table is freed and used again.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::rc::Rc;
use std::sync::Mutex;

trait Job: Send {
    fn run(&self) -> u64;
}

struct Mail {
    text: [u8; 200],
    name: String,
}

struct Print {
    pages: [u64; 40],
}

impl Job for Mail {
    fn run(&self) -> u64 {
        self.text[0] as u64 + self.name.len() as u64
    }
}

impl Job for Print {
    fn run(&self) -> u64 {
        self.pages[0]
    }
}

struct Node {
    next: RefCell<Option<Rc<Node>>>,
    _filling: [u64; 6],
}

static JOBS: Mutex<Vec<Box<dyn Job>>> = Mutex::new(Vec::new());
static NAMES: Mutex<BTreeMap<u32, String>> = Mutex::new(BTreeMap::new());
static TABLE: Mutex<Option<HashMap<u64, Vec<u8>>>> = Mutex::new(None);

#[inline(never)]
fn hold() {
    let mut jobs = JOBS.lock().unwrap();
    jobs.reserve_exact(2 * 1009);
    for i in 0..1009u64 {
        jobs.push(Box::new(Mail { text: [i as u8; 200], name: format!("a name of some length {i}") }));
        jobs.push(Box::new(Print { pages: [i; 40] }));
    }
    let mut names = NAMES.lock().unwrap();
    let mut table = HashMap::with_capacity(2003);
    for i in 0..2003u32 {
        names.insert(i, format!("a string on the heap {i}"));
        table.insert(i as u64, vec![i as u8; 104]);
    }
    *TABLE.lock().unwrap() = Some(table);
}

#[inline(never)]
fn lose() {
    for i in 0..503u64 {
        std::mem::forget(black_box(Box::new([i; 70])));
        let first = Rc::new(Node { next: RefCell::new(None), _filling: [i; 6] });
        let second = Rc::new(Node { next: RefCell::new(Some(first.clone())), _filling: [i; 6] });
        *first.next.borrow_mut() = Some(second);
        std::mem::forget(black_box(Box::new(Print { pages: [i; 40] }) as Box<dyn Job>));
    }
}

#[inline(never)]
fn scrub() -> u8 {
    let mut filling = [0u8; 65536];
    for byte in filling.iter_mut() {
        unsafe { std::ptr::write_volatile(byte, 0) };
    }
    filling[7]
}

fn main() {
    hold();
    lose();
    scrub();
    println!("READY {}", std::process::id());
    let stdin = std::io::stdin();
    for line in stdin.lock().lines() {
        if line.is_err() {
            break;
        }
        scrub();
        let ran: u64 = JOBS.lock().unwrap().iter().map(|job| job.run()).sum();
        println!("{{\"lost_blocks\": {}, \"mail\": 1009, \"print\": 1009, \"ran\": {ran}}}", 503 * 4);
        std::io::stdout().flush().unwrap();
    }
}
