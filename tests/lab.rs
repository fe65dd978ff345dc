//! End to end: the real binaries in `scripts/lab`, with ordinary programs on hosts that know nothing of them.
//!
//! Needs root, and the programs that `scripts/test` installs. One lab at a time, since the machine has few cores: what
//! times are asserted are about behaviour (refused at once, an error within seconds), never about speed. The binaries are
//! those of the profile under test, or those in `$LONGHAUL_BIN_DIR`.

#[expect(dead_code, reason = "shared with other tests, which use other parts")]
mod support;

mod lab {
    pub mod bench;
    pub mod hosts;
    pub mod pattern;
    pub mod programs;

    mod acceleration;
    mod bypass;
    mod failures;
    mod forwarding;
    mod manners;
    mod path_mtu;
    mod shared_wan;
}
