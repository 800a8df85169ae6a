//! The range that a profiler looks at. There is none that looks.

use crate::driver;
use crate::edge::Outcome;

pub unsafe fn cuProfilerStart() -> Outcome {
    driver::context()?.check()
}

pub unsafe fn cuProfilerStop() -> Outcome {
    driver::context()?.check()
}
