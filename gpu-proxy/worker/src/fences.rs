//! Events on streams that tell how many credits are to be returned; never part of a capture.

#![forbid(unsafe_code)]

use cuda_abi::types::CUresult;

use crate::contexts::ContextKey;
use crate::credits::{Fences, StreamKey};
use crate::session::Session;

impl Fences for Session {
    fn record(&self, stream: &StreamKey) -> Result<usize, CUresult> {
        let _gate = self.captures.hold();
        if self.captures.includes(stream.stream, self.driver())? {
            // What was captured is not pending, and this event would be.
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        // A default stream is the current context's, whoever asks.
        self.contexts.enter(stream.context, self.driver())?;
        let event = self.contexts.event(stream.context, self.driver())?;
        self.driver().record_event(event, stream.stream)?;
        Ok(event)
    }

    fn is_over(&self, event: usize) -> bool {
        let asked = || self.driver().query_event(event);
        self.captures.relaxed(self.driver(), asked) != Err(CUresult::CUDA_ERROR_NOT_READY)
    }

    fn wait(&self, event: usize) {
        let wait = || self.driver().synchronize_event(event);
        // A failure means that the work is over, too; the next call on the context reports it.
        let _ = self.captures.relaxed(self.driver(), wait);
    }

    fn recycle(&self, context: ContextKey, event: usize) {
        self.contexts.recycle(context, event);
    }
}
