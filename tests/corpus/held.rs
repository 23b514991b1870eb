// SPDX-License-Identifier: Apache-2.0
// Programs of the corpus in Rust, the held half: only for the final measurement. labels.py says which functions leak.
#[path = "corpus.rs"]
mod corpus;
use corpus::{keep, random, Pace};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::mpsc::{channel, Sender};

#[inline(never)]
fn digest(n: u64) -> u64 {
    let words: Vec<u64> = (0..50 + random(100)).map(|i| i.wrapping_mul(n)).collect();
    words.iter().fold(0, |a, b| a ^ b)
}

struct Pipeline {
    jobs: Sender<Vec<u8>>,
}

impl Pipeline {
    #[inline(never)]
    fn submit(&self) {
        if self.jobs.send(vec![3u8; 2500]).is_ok() {
            keep("Pipeline::submit", 2500, 1);
        }
    }
}

fn backlog(mut pace: Pace) {
    let (jobs, taken) = channel();
    let pipeline = Pipeline { jobs };
    loop {
        pipeline.submit();
        if pace.now % 2 == 0 && taken.try_recv().is_ok() {
            keep("Pipeline::submit", 0u64.wrapping_sub(2500), 0u64.wrapping_sub(1));
        }
        digest(pace.now);
        pace.tick();
    }
}

struct Branch {
    parent: RefCell<Option<Rc<Branch>>>,
    child: RefCell<Option<Rc<Branch>>>,
    _body: [u8; 900],
}

struct Tree;

impl Tree {
    fn sprout() -> Rc<Branch> {
        Rc::new(Branch { parent: RefCell::new(None), child: RefCell::new(None), _body: [4; 900] })
    }

    #[inline(never)]
    fn attach(&self) {
        let (a, b) = (Tree::sprout(), Tree::sprout());
        *a.child.borrow_mut() = Some(b.clone());
        *b.parent.borrow_mut() = Some(a);
        let size = std::mem::size_of::<Branch>() as u64 + 16;
        keep("Tree::attach", 2 * size, 2);
    }
}

fn cycle(mut pace: Pace) {
    let tree = Tree;
    loop {
        digest(pace.now);
        if pace.now % 6 == 0 {
            tree.attach();
        }
        pace.tick();
    }
}

struct Screen {
    front: Vec<u32>,
    back: Vec<u32>,
}

impl Screen {
    #[inline(never)]
    fn flip(&mut self) {
        self.back = vec![random(9) as u32; 300_000 + random(1000) as usize];
        std::mem::swap(&mut self.front, &mut self.back);
    }
}

fn two_screens(mut pace: Pace) {
    let mut screen = Screen { front: Vec::new(), back: Vec::new() };
    loop {
        if pace.now % 20 == 0 {
            screen.flip();
        }
        digest(pace.now + screen.front.len() as u64);
        pace.tick();
    }
}

fn main() {
    corpus::run(&[("backlog", backlog), ("cycle", cycle), ("two_screens", two_screens)]);
}
