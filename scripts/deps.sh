#!/bin/sh
# Finds what the build needs beside Rust: the bundled MsQuic is C and C++, built with cmake, and
# its TLS library is configured with perl. Linux also links a static libnuma.
#
#   scripts/deps.sh            install what is missing (apt-get), or print the line that does
#   scripts/deps.sh --check    report only
#
# Exit code: 0 when nothing is missing (any more), 1 when something is, 2 on wrong use.
# Honours CC, CXX and CMAKE, as the build does.
set -eu

cd "$(dirname "$0")/.."

CMAKE_MINIMUM_MINOR=16 # of cmake 3: what MsQuic's CMakeLists.txt asks for

say() { printf 'deps: %s\n' "$*"; }
fail() {
    printf 'deps: %s\n' "$*" >&2
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

check_only=no
case "${1-}" in
'') ;;
--check) check_only=yes ;;
*)
    echo "usage: scripts/deps.sh [--check]" >&2
    exit 2
    ;;
esac

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Compilers are judged by a program that includes a header and links: a compiler without its C
# library is as good as none. CC and CXX may hold arguments, so they are split on purpose.
have_c() {
    printf '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n' >"$scratch/c.c"
    ${CC:-cc} "$scratch/c.c" -o "$scratch/c" >/dev/null 2>&1
}
have_cxx() {
    printf '#include <string>\nint main() { return (int)std::string().size(); }\n' >"$scratch/x.cc"
    ${CXX:-c++} "$scratch/x.cc" -o "$scratch/x" >/dev/null 2>&1
}
have_cmake() {
    version=$("${CMAKE:-cmake}" --version 2>/dev/null |
        sed -n '1s/^.*version \([0-9][0-9]*\)\.\([0-9][0-9]*\).*/\1 \2/p')
    [ -n "$version" ] || return 1
    [ "${version% *}" -gt 3 ] || { [ "${version% *}" -eq 3 ] && [ "${version#* }" -ge "$CMAKE_MINIMUM_MINOR" ]; }
}
have_make() { has make; }
# A minimal perl lacks these modules, which OpenSSL's Configure loads.
have_perl() { perl -MFindBin -MFile::Compare -MIPC::Cmd -e1 >/dev/null 2>&1; }
have_numa() {
    [ "$(uname -s)" = Linux ] || return 0
    printf '#include <numa.h>\n' >"$scratch/numa.c"
    ${CC:-cc} -E "$scratch/numa.c" >/dev/null 2>&1 || return 1
    # Prints a path when the library is found and the bare name when it is not.
    [ -f "$(${CC:-cc} -print-file-name=libnuma.a 2>/dev/null)" ]
}

find_missing() {
    missing=
    # Without a C compiler the headers cannot be judged: numa.h is then asked of the file system.
    if have_c; then
        have_numa || missing="numa"
    else
        missing="c"
        [ "$(uname -s)" != Linux ] || [ -f /usr/include/numa.h ] || missing="$missing numa"
    fi
    have_cxx || missing="$missing cxx"
    have_cmake || missing="$missing cmake"
    have_make || missing="$missing make"
    have_perl || missing="$missing perl"
    missing=${missing# }
}

# What a person would call it.
name_of() {
    case $1 in
    c) echo "a C compiler" ;;
    cxx) echo "a C++ compiler" ;;
    cmake) echo "cmake 3.$CMAKE_MINIMUM_MINOR or newer" ;;
    perl) echo "perl with its standard modules" ;;
    numa) echo "libnuma (numa.h and libnuma.a)" ;;
    *) echo "$1" ;;
    esac
}

# The package of manager $1 that brings tool $2.
package_of() {
    case $1:$2 in
    apt-get:c) echo "gcc libc6-dev" ;;
    apt-get:cxx) echo "g++" ;;
    apt-get:numa) echo "libnuma-dev" ;;
    dnf:c | zypper:c) echo "gcc" ;;
    dnf:cxx | zypper:cxx) echo "gcc-c++" ;;
    dnf:numa) echo "numactl-devel" ;;
    zypper:numa) echo "libnuma-devel" ;;
    pacman:c | pacman:cxx | brew:c | brew:cxx) echo "gcc" ;;
    pacman:numa | brew:numa) echo "numactl" ;;
    apk:c) echo "gcc musl-dev linux-headers" ;;
    apk:cxx) echo "g++" ;;
    apk:numa) echo "numactl-dev" ;;
    *) echo "$2" ;;
    esac
}

packages_for() {
    packages=
    for tool in $missing; do
        for package in $(package_of "$1" "$tool"); do
            case " $packages " in
            *" $package "*) ;;
            *) packages="${packages:+$packages }$package" ;;
            esac
        done
    done
    echo "$packages"
}

# The line a person runs by hand, for the package manager of this machine.
line_by_hand() {
    sudo=
    [ "$(id -u)" -eq 0 ] || sudo="sudo "
    if has apt-get; then
        echo "${sudo}apt-get update && ${sudo}apt-get install -y $(packages_for apt-get)"
    elif has dnf; then
        echo "${sudo}dnf install -y $(packages_for dnf)"
    elif has pacman; then
        echo "${sudo}pacman -S --needed --noconfirm $(packages_for pacman)"
    elif has zypper; then
        echo "${sudo}zypper install -y $(packages_for zypper)"
    elif has apk; then
        echo "${sudo}apk add $(packages_for apk)"
    elif [ "$(uname -s)" = Darwin ]; then
        case " $missing " in
        *" c "* | *" cxx "*) echo "xcode-select --install" ;;
        *) echo "brew install $(packages_for brew)" ;;
        esac
    elif has brew; then
        echo "brew install $(packages_for brew)"
    fi
}

by_hand() {
    line=$(line_by_hand)
    if [ -z "$line" ]; then
        fail "no package manager known here: install them by hand, then try again"
    fi
    printf 'deps: run: %s\n' "$line" >&2
    case " $missing " in
    *" numa "*)
        has apt-get || printf 'deps: %s\n' "if that brings no libnuma.a, build one and name its folder: RUSTFLAGS='-L native=DIR'" >&2
        ;;
    esac
    exit 1
}

check_cargo() {
    rustup="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
    if ! has cargo; then
        if [ -x "${HOME-}/.cargo/bin/cargo" ]; then
            fail "cargo is installed but not on PATH; run: . \"\$HOME/.cargo/env\""
        fi
        fail "Rust is missing; run: $rustup"
    fi
    wanted=$(sed -n 's/^rust-version *= *"1\.\([0-9]*\).*/\1/p' Cargo.toml)
    found=$(cargo --version 2>/dev/null | sed -n 's/^cargo 1\.\([0-9]*\).*/\1/p')
    if [ -n "$wanted" ] && [ -n "$found" ] && [ "$found" -lt "$wanted" ]; then
        if has rustup; then rustup="rustup update stable"; fi
        fail "Rust 1.$wanted or newer is needed, this is 1.$found; run: $rustup"
    fi
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# A lock held by a background upgrade is waited for, in seconds.
apt() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@"
}

install_with_apt() {
    if [ "$(id -u)" -ne 0 ] && ! has sudo; then
        say "neither root nor sudo"
        by_hand
    fi
    packages=$(packages_for apt-get)
    say "installing $packages"
    if ! apt update && ! apt update; then
        say "the package lists could not be renewed; trying with those at hand"
    fi
    # Split on purpose: a list of package names.
    # shellcheck disable=SC2086
    apt install --no-install-recommends $packages || by_hand
}

check_cargo
find_missing

if [ -z "$missing" ]; then
    say "everything is there"
    exit 0
fi

list=
for tool in $missing; do
    list="${list:+$list, }$(name_of "$tool")"
done
say "missing: $list"

if [ -n "${CMAKE-}" ] && ! have_cmake; then
    fail "CMAKE=$CMAKE is not cmake 3.$CMAKE_MINIMUM_MINOR or newer; unset it or point it at one"
fi
if [ "$check_only" = yes ] || ! has apt-get; then
    by_hand
fi

install_with_apt
find_missing
if [ -n "$missing" ]; then
    list=
    for tool in $missing; do
        list="${list:+$list, }$(name_of "$tool")"
    done
    fail "still missing after the installation: $list"
fi
say "everything is there now"
