//! Attributes of streams, and events of contexts, with Rust's arguments and results.

use cuda_abi::types::{CUcontext, CUevent, CUlaunchAttributeID, CUlaunchAttributeValue, CUstream};

use super::Table;
use super::calls::{Result, ok};

impl Table {
    pub(crate) fn stream_attribute(
        &self,
        stream: usize,
        attribute: CUlaunchAttributeID,
    ) -> Result<CUlaunchAttributeValue> {
        let function = self.cuStreamGetAttribute()?;
        let mut value = CUlaunchAttributeValue { bytes: [0; 8] };
        // SAFETY: ours, and a pointer to a local.
        ok(unsafe { function(stream as CUstream, attribute, &raw mut value) })?;
        Ok(value)
    }

    pub(crate) fn set_stream_attribute(
        &self,
        stream: usize,
        attribute: CUlaunchAttributeID,
        value: &CUlaunchAttributeValue,
    ) -> Result<()> {
        let function = self.cuStreamSetAttribute()?;
        // SAFETY: ours, and a reference; the caller has seen that an address in the value is the client's.
        ok(unsafe { function(stream as CUstream, attribute, value) })
    }

    pub(crate) fn record_context_event(&self, context: usize, event: usize) -> Result<()> {
        let function = self.cuCtxRecordEvent()?;
        // SAFETY: both ours.
        ok(unsafe { function(context as CUcontext, event as CUevent) })
    }

    pub(crate) fn wait_context_event(&self, context: usize, event: usize) -> Result<()> {
        let function = self.cuCtxWaitEvent()?;
        // SAFETY: both ours.
        ok(unsafe { function(context as CUcontext, event as CUevent) })
    }
}
