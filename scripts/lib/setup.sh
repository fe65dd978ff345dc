# Sourced by the scripts: what a fresh Debian 12 machine lacks is installed here, and nowhere else.
# shellcheck disable=SC1091 # the file is the toolchain installer's
# shellcheck shell=bash

say() { echo "==> $*" >&2; }

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

need_root() { [[ $EUID -eq 0 ]] || die "network namespaces and TAPs need root: run it with sudo"; }

# need_packages COMMAND=PACKAGE…: installs the packages whose command is missing.
need_packages() {
    local missing=() pair
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}")
    done
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
        { apt-get update -qq && apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null; } ||
        die "could not install ${missing[*]}"
}

# A Rust as new as Cargo.toml asks for. Debian 12 packages 1.63, so rustup where there is none.
need_rust() {
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    [[ ! -f $HOME/.cargo/env ]] || . "$HOME/.cargo/env"
    have=$(cargo --version 2>/dev/null | cut -d' ' -f2 || true)
    if [[ -z $have || $(printf '%s\n' "$wanted" "$have" | sort -V | head -n1) != "$wanted" ]]; then
        say "installing Rust (found: ${have:-none}, wanted: $wanted or newer)"
        need_packages curl=curl
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --profile minimal -c clippy -c rustfmt ||
            die "could not install Rust; install $wanted or newer from https://rustup.rs and run this again"
        . "$HOME/.cargo/env"
    fi
    need_packages cc=gcc ld=binutils
    # ring compiles C; the headers come with libc6-dev, which gcc only recommends.
    [[ -e /usr/include/stdio.h ]] || { apt-get install -qq -y libc6-dev >/dev/null || die "could not install libc6-dev"; }
}

build_release() {
    say "building (release)"
    cargo build --release --locked --bins || die "the build failed"
}
