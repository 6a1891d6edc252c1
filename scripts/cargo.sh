# Sourced: puts a cargo that is new enough into PATH and its version into CARGO_VERSION, or leaves the latter empty.

wanted_rust() {
    sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml
}

# version_at_least HAVE WANTED
version_at_least() {
    [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]
}

find_cargo() {
    CARGO_VERSION=
    for folder in "$(dirname "$(command -v cargo 2> /dev/null || echo /nowhere/cargo)")" "$HOME/.cargo/bin" \
        /usr/local/cargo/bin /usr/local/bin /usr/bin; do
        [ -x "$folder/cargo" ] || continue
        version=$("$folder/cargo" --version 2> /dev/null | cut -d' ' -f2)
        if [ -n "$version" ] && version_at_least "$version" "$(wanted_rust)"; then
            PATH=$folder:$PATH
            export PATH
            CARGO_VERSION=$version
            return
        fi
    done
}

find_cargo
