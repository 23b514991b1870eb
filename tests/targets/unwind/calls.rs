// SPDX-License-Identifier: Apache-2.0
//! Allocations as Rust's own library makes them: growing vectors, maps, strings, trait objects, threads, and values that
//! are dropped while a panic unwinds. The harness is own_stack.c.

use std::collections::{BTreeMap, HashMap};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex};
use std::{mem, ptr, thread};

/// What the other thread is to copy; it allocates nothing else, as channels would.
static TASK: Mutex<Option<Arc<[u8]>>> = Mutex::new(None);
static CHANGED: Condvar = Condvar::new();

extern "C" {
    fn own_stack_serve(work: extern "C" fn());
}

/// The value, of which the compiler knows nothing any more.
fn black_box<T>(value: T) -> T {
    unsafe {
        let copy = ptr::read_volatile(&value);
        mem::forget(value);
        copy
    }
}

trait Makes {
    fn make(&self, n: usize) -> Vec<u8>;
}

struct Filled(u8);
struct Mapped;

impl Makes for Filled {
    #[inline(never)]
    fn make(&self, n: usize) -> Vec<u8> {
        vec![self.0; n]
    }
}

impl Makes for Mapped {
    #[inline(never)]
    fn make(&self, n: usize) -> Vec<u8> {
        (0..n).map(|i| i as u8).collect()
    }
}

/// Allocates when it goes: while a panic unwinds, if one does.
struct AllocatesLate(usize);

impl Drop for AllocatesLate {
    #[inline(never)]
    fn drop(&mut self) {
        black_box(vec![1u8; self.0]);
    }
}

#[inline(never)]
fn grown(n: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    for i in 0..n {
        numbers.push(i as u64);
    }
    numbers
}

#[inline(never)]
fn mapped(n: usize) -> usize {
    let mut words: HashMap<String, Vec<u8>> = HashMap::new();
    let mut tree = BTreeMap::new();
    for i in 0..n {
        words.entry(format!("word {i}")).or_default().extend_from_slice(b"some bytes");
        tree.insert(i * 7 % n, Box::new([i; 9]));
    }
    words.len() + tree.len()
}

#[inline(never)]
fn recursive(depth: usize) -> usize {
    let block = black_box(vec![0u8; 100 + depth]);
    let below = if depth > 0 { recursive(depth - 1) } else { 0 };
    block.len() + below
}

#[inline(never)]
fn panics(n: usize) {
    let _late = AllocatesLate(n);
    if black_box(n) > 0 {
        panic::panic_any(Box::new(n));
    }
}

#[inline(never)]
fn sorted(n: usize) -> Vec<String> {
    let mut words: Vec<String> = (0..n).map(|i| format!("{:x}", i * 2_654_435_761)).collect();
    words.sort_by(|a, b| b.cmp(a));
    words
}

extern "C" fn work() {
    for makes in [&Filled(7) as &dyn Makes, &Mapped] {
        black_box(makes.make(1009));
    }
    black_box(grown(300));
    black_box(mapped(40));
    black_box(recursive(20));
    black_box(sorted(50));
    for n in 1..4 {
        black_box(panic::catch_unwind(AssertUnwindSafe(|| panics(100 * n)))).unwrap_err();
    }
    let shared: Arc<[u8]> = Arc::from(vec![5u8; 503]);
    // The other thread stays: what a thread leaves behind that has ended is a sum, without stacks.
    *TASK.lock().unwrap() = Some(Arc::clone(&shared));
    CHANGED.notify_all();
    let mut task = TASK.lock().unwrap();
    while task.is_some() {
        task = CHANGED.wait(task).unwrap();
    }
}

fn serve() {
    let mut task = TASK.lock().unwrap();
    loop {
        if let Some(bytes) = task.as_ref() {
            let copied = black_box(bytes.iter().copied().collect::<Vec<u8>>());
            black_box(copied.len() + grown(20).len());
            *task = None;
            CHANGED.notify_all();
        }
        task = CHANGED.wait(task).unwrap();
    }
}

fn main() {
    thread::spawn(serve);
    panic::set_hook(Box::new(|_| ()));
    unsafe { own_stack_serve(work) }
}
