//! Opens: accepted, refused, unanswered, let go.
