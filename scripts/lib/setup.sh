# Sourced by the scripts: what a fresh Debian 12 machine lacks is installed here, and nowhere else.
# shellcheck disable=SC1091 # the file is the toolchain installer's
# shellcheck shell=bash

say() { echo "==> $*" >&2; }

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

need_root() { [[ $EUID -eq 0 ]] || die "network namespaces and TAPs need root: run it with sudo"; }

# need_packages COMMAND=PACKAGE…: installs the packages whose command is missing, without the services that some of them
# would start now or at every boot: only their programs are wanted.
need_packages() {
    local missing=() pair
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}")
    done
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]}"
    install_quietly "${missing[@]}" || die "could not install ${missing[*]}"
}

# As need_packages; goes on without what cannot be had.
want_packages() {
    (need_packages "$@") || say "going on without"
}

# In a shell of its own, so that its trap is its own as well.
install_quietly() (
    export DEBIAN_FRONTEND=noninteractive
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    enabled=$(enabled_services)
    apt-get install -qq -y --no-install-recommends "$@" >/dev/null 2>&1 ||
        { apt-get update -qq && apt-get install -qq -y --no-install-recommends "$@" >/dev/null; } || exit 1
    mapfile -t new < <(comm -13 <(echo "$enabled") <(enabled_services))
    ((${#new[@]} == 0)) || systemctl --quiet disable "${new[@]}" >/dev/null 2>&1 || true
)

# systemctl, where there is one, reads this from the file system: nothing has to run.
enabled_services() {
    systemctl list-unit-files --type=service,socket --state=enabled --no-legend --plain 2>/dev/null | cut -d' ' -f1 | sort
}

# The scripts' Python: python3-minimal has no json.
need_python() {
    python3 -c 'import json' 2>/dev/null || install_quietly python3 || die "could not install python3"
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
