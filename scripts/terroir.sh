# Sourced: TERROIR is the built binary, `as_root` runs a command with root's rights and Terroir's settings.

PROFILE=${PROFILE:-release}
TARGET=${CARGO_TARGET_DIR:-$PWD/target}
case $PROFILE in
dev) TERROIR=$TARGET/debug/terroir ;;
*) TERROIR=$TARGET/$PROFILE/terroir ;;
esac

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        # shellcheck disable=SC2046
        sudo $(env | sed -n 's/^\(TERROIR_[A-Z_]*=[^ ]*\)$/\1/p') "$@"
    fi
}
