//! What belongs to a thread: its stack of current contexts and a number that names it.
//!
//! Plain thread-local data without destructors: programs call in while their threads are being torn down.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

use softgpu_core::error::Error;

/// Contexts a thread may have pushed.
const DEPTH: usize = 64;

struct Stack {
    handles: [u64; DEPTH],
    length: usize,
}

thread_local! {
    static STACK: RefCell<Stack> = const { RefCell::new(Stack { handles: [0; DEPTH], length: 0 }) };
    static NUMBER: Cell<u64> = const { Cell::new(0) };
    static CAPTURE_MODE: Cell<u32> = const { Cell::new(0) };
}

/// The current context's handle; 0 for none.
pub(crate) fn top() -> u64 {
    STACK.with_borrow(|stack| {
        stack
            .length
            .checked_sub(1)
            .map_or(0, |last| stack.handles[last])
    })
}

/// Puts a context on the stack.
pub(crate) fn push(handle: u64) -> Result<(), Error> {
    STACK.with_borrow_mut(|stack| {
        let place = stack
            .handles
            .get_mut(stack.length)
            .ok_or(Error::OutOfMemory)?;
        *place = handle;
        stack.length += 1;
        Ok(())
    })
}

/// Takes the current context off the stack.
pub(crate) fn pop() -> Option<u64> {
    STACK.with_borrow_mut(|stack| {
        stack.length = stack.length.checked_sub(1)?;
        Some(stack.handles[stack.length])
    })
}

/// Replaces the current context; 0 takes it off.
pub(crate) fn replace(handle: u64) -> Result<(), Error> {
    pop();
    if handle == 0 { Ok(()) } else { push(handle) }
}

/// A number of this thread's own, for its default streams.
pub(crate) fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NUMBER.get();
    if number != 0 {
        return number;
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    NUMBER.set(number);
    number
}

/// The thread's capture mode.
pub(crate) fn capture_mode() -> u32 {
    CAPTURE_MODE.get()
}

/// Exchanges the thread's capture mode.
pub(crate) fn exchange_capture_mode(mode: u32) -> u32 {
    CAPTURE_MODE.replace(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stack_gives_back_what_was_pushed_and_refuses_more_than_it_holds() {
        assert_eq!((top(), pop()), (0, None));
        replace(5).unwrap();
        push(6).unwrap();
        assert_eq!(top(), 6);
        replace(7).unwrap();
        assert_eq!((pop(), pop(), pop()), (Some(7), Some(5), None));
        for handle in 1..=64 {
            push(handle).unwrap();
        }
        assert_eq!(push(65), Err(Error::OutOfMemory));
        assert_eq!(top(), 64);
    }
}
