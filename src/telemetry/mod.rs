//! Logs and the status socket's texts.
//!
//! | file | one job |
//! |---|---|
//! | `logging` | where log lines go and which |
//! | `status` | the status document: plain numbers, as JSON |
//! | `render` | the same for a person: one screen |
//! | `socket` | the local socket that hands it out |

mod logging;
mod render;
mod socket;
mod status;

pub use logging::{FilterError, init_logging};
pub use socket::{DOCUMENT_LEN_MAX, FETCH_TIMEOUT, FetchError, bind_status_socket, fetch_document};
pub use status::{ChannelStatus, FlowStatus, ReasonCount, Status, StatusVerdict};
