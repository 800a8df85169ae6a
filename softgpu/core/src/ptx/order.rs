//! The order of a function's blocks, by which lanes of a warp that part meet again.
//!
//! An engine that lets those lanes go first that are furthest behind joins them where they would join on a GPU,
//! if every block comes after all that lead to it, a loop's blocks stand in one piece, and only the last of them
//! leads back to the first. Compilers put blocks into other orders: an outer loop's latch before the inner loop
//! lets lanes that leave the inner loop early run ahead of the others.
//!
//! Code that has such an order already stays as it is. The order of the rest follows from the nest of loops
//! (components of the graph that are strongly connected, each opened by taking away the branches to its head); of
//! blocks that could come next, the one that stood first does. A loop with several branches back gets one latch.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::blocks::{Blocks, falls_through};
use super::ir::{Guard, Inst, Op};

/// Loops that are nested deeper keep their order, which bounds the time that a text can ask for.
const MAX_NESTING: u32 = 64;

/// What follows what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Item {
    Block(usize),
    /// A branch to a loop's head, for all that lead back to it.
    Latch(usize),
}

/// Puts the blocks of a function into order. Branch targets count from the code's start; `lines` go with the code,
/// and the jump tables `own` are this function's.
pub fn order(code: &mut Vec<Inst>, lines: &mut Vec<u32>, tables: &mut [Vec<u32>], own: &[usize]) {
    let blocks = Blocks::find(code, tables);
    let Nest {
        items, redirected, ..
    } = Nest::of(&blocks.successors);
    let sorted = items
        .iter()
        .enumerate()
        .all(|(place, item)| *item == Item::Block(place));
    if sorted {
        return;
    }

    // Written with items as targets first: where they come to lie is known at the end.
    let mut new = Code {
        insts: Vec::with_capacity(code.len()),
        lines: Vec::with_capacity(code.len()),
        targets: HashMap::new(),
    };
    let mut starts: HashMap<Item, u32> = HashMap::new();
    let goal = |from: usize, to: usize| {
        if redirected.contains(&(from, to)) {
            Item::Latch(to)
        } else {
            Item::Block(to)
        }
    };
    let block_at = |target: u32| Some(blocks.containing(usize::try_from(target).ok()?));
    let mut table_of: HashMap<usize, usize> = HashMap::new();
    for (place, &item) in items.iter().enumerate() {
        let next = items.get(place + 1).copied();
        starts.insert(item, new.place());
        let block = match item {
            Item::Latch(head) => {
                let line = new.lines.last().copied().unwrap_or_default();
                new.branch(Guard::ALWAYS, Item::Block(head), line);
                continue;
            }
            Item::Block(block) => block,
        };
        let range = blocks.range(block);
        let Some((last, body)) = code[range.clone()].split_last() else {
            continue;
        };
        new.insts.extend_from_slice(body);
        new.lines
            .extend_from_slice(&lines[range.start..range.end - 1]);
        let line = lines[range.end - 1];
        let behind = falls_through(last).then(|| goal(block, block + 1));
        let taken = match last.op {
            Op::Bra { target } => block_at(target).map(|to| goal(block, to)),
            _ => None,
        };
        match (taken, behind) {
            (Some(taken), behind) if Some(taken) == next && behind.is_none_or(|b| b == taken) => {}
            (Some(taken), Some(behind)) if Some(taken) == next => {
                let guard = Guard {
                    negate: !last.guard.negate,
                    ..last.guard
                };
                new.branch(guard, behind, line);
            }
            (Some(taken), behind) => {
                new.branch(last.guard, taken, line);
                new.go_on(behind, next, line);
            }
            (None, behind) => {
                if let Op::BraTable { table, .. } = last.op
                    && let Ok(table) = usize::try_from(table)
                {
                    table_of.insert(table, block);
                }
                new.insts.push(*last);
                new.lines.push(line);
                new.go_on(behind, next, line);
            }
        }
    }
    for (place, target) in &new.targets {
        if let (Op::Bra { target: place }, Some(&start)) =
            (&mut new.insts[*place].op, starts.get(target))
        {
            *place = start;
        }
    }
    for &table in own {
        // A table belongs to one branch; that of none is never read.
        let Some(&from) = table_of.get(&table) else {
            continue;
        };
        for target in &mut tables[table] {
            let to = block_at(*target).and_then(|to| starts.get(&goal(from, to)));
            *target = to.copied().unwrap_or(*target);
        }
    }
    *code = new.insts;
    *lines = new.lines;
}

struct Code {
    insts: Vec<Inst>,
    lines: Vec<u32>,
    /// Where each branch goes, by its place.
    targets: HashMap<usize, Item>,
}

impl Code {
    /// Where the next instruction will lie.
    fn place(&self) -> u32 {
        // What is added to code, whose places fit, is less than an instruction for each.
        u32::try_from(self.insts.len()).unwrap_or(u32::MAX)
    }

    fn branch(&mut self, guard: Guard, target: Item, line: u32) {
        self.targets.insert(self.insts.len(), target);
        let op = Op::Bra { target: 0 };
        self.insts.push(Inst { guard, op });
        self.lines.push(line);
    }

    /// A branch to what came `behind`, unless it comes `next`.
    fn go_on(&mut self, behind: Option<Item>, next: Option<Item>, line: u32) {
        if let Some(behind) = behind
            && Some(behind) != next
        {
            self.branch(Guard::ALWAYS, behind, line);
        }
    }
}

/// The nest of a function's loops, being put into order.
struct Nest<'a> {
    successors: &'a [Vec<usize>],
    predecessors: Vec<Vec<usize>>,
    items: Vec<Item>,
    /// Branches that go to a latch, by block and head.
    redirected: HashSet<(usize, usize)>,
}

/// The strongly connected components of a part, sorted each, and the number of each block's.
struct Components {
    list: Vec<Vec<usize>>,
    of: HashMap<usize, usize>,
}

impl<'a> Nest<'a> {
    fn of(successors: &'a [Vec<usize>]) -> Self {
        let count = successors.len();
        let mut reached = vec![false; count];
        let mut found: Vec<usize> = (0..count.min(1)).collect();
        while let Some(block) = found.pop() {
            if !std::mem::replace(&mut reached[block], true) {
                found.extend(&successors[block]);
            }
        }
        let mut predecessors = vec![Vec::new(); count];
        for (block, list) in successors.iter().enumerate().filter(|(b, _)| reached[*b]) {
            for &successor in list {
                predecessors[successor].push(block);
            }
        }
        let mut nest = Self {
            successors,
            predecessors,
            items: Vec::with_capacity(count),
            redirected: HashSet::new(),
        };
        nest.arrange((0..count).filter(|&b| reached[b]).collect(), None, 0);
        // No lane comes to these.
        let rest = (0..count).filter(|&b| !reached[b]);
        nest.items.extend(rest.map(Item::Block));
        nest
    }

    /// Appends `part`, without the branches to `head`.
    fn arrange(&mut self, part: Vec<usize>, head: Option<usize>, nesting: u32) {
        if nesting == MAX_NESTING {
            self.items.extend(part.into_iter().map(Item::Block));
            return;
        }
        let Components { mut list, of } = self.components(&part, head);
        let mut waits = vec![0usize; list.len()];
        let edges = |component: usize, list: &[Vec<usize>]| -> Vec<usize> {
            list[component]
                .iter()
                .flat_map(|&block| &self.successors[block])
                .filter(|&&to| Some(to) != head)
                .filter_map(|to| of.get(to).copied())
                .filter(|&to| to != component)
                .collect()
        };
        let edges: Vec<Vec<usize>> = (0..list.len()).map(|c| edges(c, &list)).collect();
        edges.iter().flatten().for_each(|&to| waits[to] += 1);
        let mut ready: BinaryHeap<_> = (0..list.len())
            .filter(|&component| waits[component] == 0)
            .map(|component| Reverse((list[component][0], component)))
            .collect();
        while let Some(Reverse((_, component))) = ready.pop() {
            self.place(std::mem::take(&mut list[component]), nesting);
            for &to in &edges[component] {
                waits[to] -= 1;
                if waits[to] == 0 {
                    ready.push(Reverse((list[to][0], to)));
                }
            }
        }
    }

    /// Appends a component: a block or a loop.
    fn place(&mut self, component: Vec<usize>, nesting: u32) {
        let &[first, _, ..] = &component[..] else {
            self.items.extend(component.into_iter().map(Item::Block));
            return;
        };
        let inside: HashSet<usize> = component.iter().copied().collect();
        let entered = |block: &usize| {
            *block == 0
                || self.predecessors[*block]
                    .iter()
                    .any(|from| !inside.contains(from))
        };
        // The component is reached, so that it is entered somewhere.
        let entry = component.iter().copied().find(entered).unwrap_or(first);
        for head in [first, entry] {
            if self.ends_in_one_latch(&component, &inside, head) {
                return self.arrange(component, Some(head), nesting + 1);
            }
        }
        let back = self.predecessors[entry].iter().copied();
        let back = back.filter(|from| *from != entry && inside.contains(from));
        self.redirected.extend(back.map(|from| (from, entry)));
        self.arrange(component, Some(entry), nesting + 1);
        self.items.push(Item::Latch(entry));
    }

    /// Whether one block, of no loop inside, leads back to `head`. All others lead to it: it will be the last.
    fn ends_in_one_latch(&self, component: &[usize], inside: &HashSet<usize>, head: usize) -> bool {
        // A block that leads to itself is a loop of its own.
        let mut back = self.predecessors[head].clone();
        back.retain(|from| *from != head && inside.contains(from));
        back.dedup();
        let &[latch] = &back[..] else {
            return false;
        };
        let components = self.components(component, Some(head));
        components.list[components.of[&latch]].len() == 1
            && !self.successors[latch].contains(&latch)
    }

    /// The components of `part` without the branches to `head` (Tarjan's algorithm).
    fn components(&self, part: &[usize], head: Option<usize>) -> Components {
        const UNSEEN: usize = usize::MAX;
        let mut found = Components {
            list: Vec::new(),
            of: HashMap::with_capacity(part.len()),
        };
        let mut numbers: HashMap<usize, usize> = part.iter().map(|&b| (b, UNSEEN)).collect();
        let mut lowest: HashMap<usize, usize> = HashMap::with_capacity(part.len());
        let (mut count, mut open) = (0usize, Vec::new());
        // Blocks under way, and how many of each one's successors have been looked at.
        let mut path: Vec<(usize, usize)> = Vec::new();
        for &root in part {
            if numbers[&root] != UNSEEN {
                continue;
            }
            path.push((root, 0));
            while let Some((block, next)) = path.last_mut() {
                let block = *block;
                if *next == 0 {
                    numbers.insert(block, count);
                    lowest.insert(block, count);
                    count += 1;
                    open.push(block);
                }
                let followed = self.successors[block].get(*next).copied();
                *next += 1;
                if let Some(to) = followed {
                    match numbers.get(&to) {
                        _ if Some(to) == head => {}
                        Some(&UNSEEN) => path.push((to, 0)),
                        Some(&number) if !found.of.contains_key(&to) => {
                            let low = lowest[&block].min(number);
                            lowest.insert(block, low);
                        }
                        _ => {}
                    }
                    continue;
                }
                path.pop();
                let low = lowest[&block];
                if let Some((parent, _)) = path.last() {
                    let least = lowest[parent].min(low);
                    lowest.insert(*parent, least);
                }
                if low == numbers[&block] {
                    let from = open.iter().rposition(|&b| b == block).unwrap_or(0);
                    let mut component = open.split_off(from);
                    component.sort_unstable();
                    let number = found.list.len();
                    found.of.extend(component.iter().map(|&b| (b, number)));
                    found.list.push(component);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::super::ir::P;
    use super::*;

    /// A numbered step, and how a block goes on: `Some` predicate for a branch that may fall through.
    enum End {
        Falls,
        Exit,
        To(u32),
        May(u16, u32),
    }

    /// Code of one step a block, whose line is the block's number.
    fn code(ends: &[End]) -> (Vec<Inst>, Vec<u32>) {
        let always = |op| Inst {
            guard: Guard::ALWAYS,
            op,
        };
        let (mut insts, mut lines) = (Vec::new(), Vec::new());
        for (block, end) in (0..).zip(ends) {
            insts.push(always(Op::Nop {}));
            // Two instructions a block, so that a block starts at twice its number.
            insts.push(match *end {
                End::Falls => always(Op::Nop {}),
                End::Exit => always(Op::Exit {}),
                End::To(to) => always(Op::Bra { target: to * 2 }),
                End::May(predicate, to) => Inst {
                    guard: Guard {
                        predicate: NonZeroU16::new(predicate + 1).map(P),
                        negate: false,
                    },
                    op: Op::Bra { target: to * 2 },
                },
            });
            lines.extend([block; 2]);
        }
        (insts, lines)
    }

    fn ordered(ends: &[End]) -> (Vec<Inst>, Vec<u32>) {
        let (mut insts, mut lines) = code(ends);
        order(&mut insts, &mut lines, &mut [], &[]);
        assert_eq!(insts.len(), lines.len());
        (insts, lines)
    }

    /// The steps that a lane takes whose predicates are true and false as `seed` has it.
    fn steps(insts: &[Inst], lines: &[u32], seed: u64) -> Vec<u32> {
        let mut asked: HashMap<P, u64> = HashMap::new();
        let mut holds = |guard: Guard| {
            let Some(predicate) = guard.predicate else {
                return true;
            };
            let count = asked.entry(predicate).or_default();
            *count += 1;
            let mixed = (u64::from(predicate.0.get()) << 32 | *count) ^ seed;
            let bit = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61 & 1;
            (bit == 1) != guard.negate
        };
        let (mut place, mut steps) = (0, Vec::new());
        while steps.len() < 200 {
            let inst = insts[place];
            match inst.op {
                Op::Bra { target } if holds(inst.guard) => {
                    place = usize::try_from(target).unwrap();
                    continue;
                }
                Op::Exit {} => break,
                Op::Nop {} => steps.push(lines[place]),
                _ => {}
            }
            place += 1;
        }
        steps
    }

    /// Where a branch leads back, what lies between is a loop, and no other branch leads back to its head.
    fn assert_loops_are_whole(successors: &[Vec<usize>]) {
        let nest = Nest::of(successors);
        let mut reached = HashSet::new();
        let mut found = vec![0];
        while let Some(block) = found.pop() {
            if reached.insert(block) {
                found.extend(&successors[block]);
            }
        }
        // The rest comes last.
        let reached = 0..nest.items.len() - (successors.len() - reached.len());
        let place: HashMap<Item, usize> = nest.items.iter().copied().zip(0..).collect();
        let next: Vec<Vec<usize>> = nest
            .items
            .iter()
            .map(|item| match *item {
                Item::Latch(head) => vec![place[&Item::Block(head)]],
                Item::Block(block) => successors[block]
                    .iter()
                    .map(|&to| match nest.redirected.contains(&(block, to)) {
                        true => place[&Item::Latch(to)],
                        false => place[&Item::Block(to)],
                    })
                    .collect(),
            })
            .collect();
        for head in reached.clone() {
            // A block that leads to itself is a loop of its own.
            let mut sources = (head + 1..reached.end).filter(|&from| next[from].contains(&head));
            let Some(last) = sources.next() else {
                continue;
            };
            assert_eq!(sources.next(), None, "{:?}", nest.items);
            // Whether it leads to the head through the loop.
            for from in head + 1..reached.end {
                let (mut seen, mut found) = (HashSet::new(), vec![from]);
                while let Some(at) = found.pop() {
                    if at >= head && seen.insert(at) && at != head {
                        found.extend(&next[at]);
                    }
                }
                assert_eq!(seen.contains(&head), from <= last, "{:?}", nest.items);
            }
        }
    }

    #[test]
    fn a_latch_before_the_inner_loop_comes_behind_it() {
        // Head, latch and way out, inner loop of two blocks, end.
        let (_, lines) = ordered(&[
            End::To(3),
            End::May(0, 0),
            End::To(5),
            End::May(1, 1),
            End::To(3),
            End::Exit,
        ]);
        let mut blocks = lines;
        blocks.dedup();
        assert_eq!(blocks, [0, 3, 4, 1, 2, 5]);
    }

    #[test]
    fn a_loop_with_two_branches_back_gets_a_latch() {
        let ends = [End::May(0, 3), End::May(1, 0), End::May(2, 0), End::Exit];
        let (insts, _) = ordered(&ends);
        let targets: Vec<_> = insts
            .iter()
            .filter_map(|inst| match inst.op {
                Op::Bra { target } => Some(target),
                _ => None,
            })
            .collect();
        // Out, to the latch, past it, and from it to the head.
        assert_eq!(targets.iter().filter(|&&target| target == 0).count(), 1);
        assert_eq!(targets.len(), 4);
    }

    #[test]
    fn a_loop_that_is_entered_at_its_end_stays() {
        let ends = [End::To(2), End::Falls, End::May(0, 1), End::Exit];
        assert_eq!(ordered(&ends), code(&ends));
    }

    #[test]
    fn any_graph_keeps_its_paths_and_has_whole_loops_afterwards() {
        let mut state = 7u64;
        let mut random = |below: u32| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            u32::try_from(state >> 33).unwrap() % below
        };
        for _ in 0..3000 {
            let count = 2 + random(12);
            let mut ends: Vec<End> = (1..count)
                .map(|block| match random(6) {
                    0 => End::Falls,
                    1 => End::To(random(count)),
                    2 if random(4) == 0 => End::Exit,
                    _ => End::May(u16::try_from(block).unwrap(), random(count)),
                })
                .collect();
            ends.push(End::Exit);
            let (before, numbers) = code(&ends);
            let (after, lines) = ordered(&ends);
            for seed in 0..8 {
                assert_eq!(steps(&before, &numbers, seed), steps(&after, &lines, seed));
            }
            assert_loops_are_whole(&Blocks::find(&before, &[]).successors);
        }
    }

    #[test]
    fn loops_nested_too_deep_keep_their_order() {
        // Each block may go back to any before it.
        let depth = 300;
        let mut ends: Vec<End> = (0..depth).map(|_| End::Falls).collect();
        ends.extend((0..depth).map(|step| {
            let to = u32::from(depth - 1 - step);
            End::May(step, to)
        }));
        ends.push(End::Exit);
        let (before, numbers) = code(&ends);
        let (after, lines) = ordered(&ends);
        assert_eq!(steps(&before, &numbers, 1), steps(&after, &lines, 1));
    }
}
