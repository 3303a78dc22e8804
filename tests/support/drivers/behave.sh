# The good behavior of the drivers here, which source it first. Like the libraries of real drivers it lies in the
# servo directory. It is not executable because it is not a driver.
#
# Settings come from the environment or, for one driver alone, from the file settings.d/NAME:
#   DRIVER_COMPONENT   component described, the driver's file name unless set
#   DRIVER_SETTINGS    the content of "settings", without the braces
#   DRIVER_VERSION     version of --info (1.0)
#   DRIVER_HAS_CANCEL  has_cancel of --info (false)
#   DRIVER_WHEN        phases (info, query, adjust) in which to misbehave; each driver has its own default
#   DRIVER_PROGRESS    percentages printed in an adjust (30 60)
#   DRIVER_SECONDS     how long an adjust takes (0)
#   DRIVER_REPLY       the last line of an adjust
#   DRIVER_EXIT        exit status of an adjust (0)
#   DRIVER_LOG         file to which each run adds "EVENT PHASE SECONDS PID NAME", SECONDS since the boot
#   DRIVER_PIDS        file to which a driver with children adds "ROLE PID NAME" for each process

name=${0##*/}
if [ -r "settings.d/$name" ]; then
    set -a
    . "./settings.d/$name"
    set +a
fi

: "${DRIVER_PIDS:=/dev/null}"
export DRIVER_PIDS

case ${1-} in
--query | --describe) phase=query ;;
--*) phase=${1#--} ;;
*) phase=adjust ;;
esac

stamp() { # EVENT
    if [ -n "${DRIVER_LOG-}" ]; then
        read -r now _ </proc/uptime
        printf '%s\n' "$1 $phase $now $$ $name" >>"$DRIVER_LOG"
    fi
}

record() { # ROLE PID
    printf '%s\n' "$1 $2 $name" >>"$DRIVER_PIDS"
}

say() { printf '%s\n' "$1"; }

pause() { # SECONDS
    if [ "$1" != 0 ]; then sleep "$1"; fi
}

settings() {
    default='"cpu":{"type":"range","min":0.5,"max":8,"step":0.5,"value":2,"unit":"cores"}'
    default="$default,"'"inst_type":{"type":"enum","values":["m5.large","m5.xlarge"],"value":"m5.large"}'
    say "${DRIVER_SETTINGS:-$default}"
}

components() { say "{\"${DRIVER_COMPONENT:-$name}\":{\"settings\":{$(settings)}}}"; }

inform() { say "{\"version\":\"${DRIVER_VERSION:-1.0}\",\"has_cancel\":${DRIVER_HAS_CANCEL:-false}}"; }

describe() { say "{\"application\":{\"components\":$(components)}}"; }

progress() { # PERCENT MESSAGE; prints only in an adjust
    if [ "$phase" = adjust ]; then say "{\"progress\":$1,\"message\":\"$2\"}"; fi
}

reply() {
    success='{"status":"ok","reason":"success"}'
    say "${DRIVER_REPLY:-$success}"
}

behave() {
    case $phase in
    info) inform ;;
    query) describe ;;
    *)
        cat >/dev/null
        for percent in ${DRIVER_PROGRESS-30 60}; do progress "$percent" "at $percent"; done
        pause "${DRIVER_SECONDS:-0}"
        reply
        exit "${DRIVER_EXIT:-0}"
        ;;
    esac
}

misbehave_on() { # PHASE...; in any other phase behaves and exits
    for when in ${DRIVER_WHEN-$*}; do
        if [ "$when" = "$phase" ]; then return; fi
    done
    behave
    exit
}

stamp start
trap 'stamp end' EXIT
