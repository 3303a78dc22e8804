#!/bin/sh
# A driver with a configurable fault. The files for PHASE (info, query, adjust) of NAME in the servo directory:
#   faults/NAME.PHASE.shape    the fault, a word of the `case` below; without this file there is none
#   faults/NAME.PHASE.gate     a FIFO: when all its processes exist, it waits for a line from there
#   faults/NAME.PHASE.patient  it records SIGTERM in faults/NAME.PHASE.grace and continues
#   faults/flood, faults/bulk  an adjust prints 2 MB of progress, or has 300 kB in its reply
# It creates faults/NAME.PHASE.asked when it starts, and .reached when it waits. It writes its pid to .leader, and
# the pid of a service that it leaves on purpose to .service.

name=${0##*/}
case ${1-} in
--info) phase=info ;;
--query) phase=query ;;
*) phase=adjust ;;
esac
at=faults/$name.$phase
: >"$at.asked"
shape=
if [ -r "$at.shape" ]; then read -r shape <"$at.shape"; fi

answer() {
    case $phase in
    info)
        has_cancel=false
        if grep -qs cancelable "faults/$name.adjust.shape"; then has_cancel=true; fi
        echo "{\"version\":\"1.0\",\"has_cancel\":$has_cancel}"
        ;;
    query) echo "{\"application\":{\"components\":{\"$name\":{\"settings\":{\"cpu\":{\"value\":2}}}}}}" ;;
    *)
        cat >/dev/null
        echo '{"progress":50,"message":"half way"}'
        if [ -e faults/flood ]; then yes "{\"progress\":50,\"message\":\"$(printf '%500s' '')\"}" | head -n 4000; fi
        state=
        if [ -e faults/bulk ]; then state=$(head -c 300000 /dev/zero | tr '\0' x); fi
        echo "{\"status\":\"ok\",\"reason\":\"success\",\"state\":\"$state\"}"
        ;;
    esac
}

await_file() { # waits until a descendant has written the file
    until [ -s "$1" ]; do sleep 0.01; done
}

hold() {
    if [ -e "$at.patient" ]; then trap 'echo >"$at.grace"' TERM; fi
    echo $$ >"$at.leader"
    echo >"$at.reached"
    if [ "$shape" = stopped ]; then kill -STOP $$; fi
    if [ ! -p "$at.gate" ]; then return; fi
    # Signals interrupt `wait` in every shell, but `read` only in some.
    head -n 1 "$at.gate" >/dev/null &
    while kill -0 $! 2>/dev/null; do wait $!; done
}

tree() { # three descendants
    sh -c 'sleep 600 & sleep 600 & echo >"$0.up"; wait' "$at" &
    await_file "$at.up"
}

end_group() { # a driver that ends well leaves no process
    trap '' TERM
    kill -TERM 0
    wait
}

nest() { # DEPTH
    if [ "$1" -gt 1 ]; then nest $(($1 - 1)) & else echo >"$at.up"; sleep 600 & fi
    wait
}

hop() { # TIMES; each child replaces its parent
    sleep 0.01
    if [ "$1" -gt 0 ]; then hop $(($1 - 1)) & fi
}

spawn() { # TIMES; each child has its own session
    times=$1
    while [ "$times" -gt 0 ]; do
        setsid sleep 600 &
        sleep 0.02
        times=$((times - 1))
    done
}

flat() { # COUNT
    count=$1
    while [ "$count" -gt 0 ]; do
        sleep 600 &
        count=$((count - 1))
    done
}

restore() { # restore the application before the exit
    sleep 2
    echo >"$at.restored"
}

ignore_signals() { trap '' TERM INT HUP; }

case $shape in
'') ;;
exit3) answer; exit 3 ;;
malformed) echo 'Warning: the context was not set' ;;
noisy) yes 'warning: debug' | head -c 300000 >&2 ;;
brief) tree; sleep 0.25; end_group ;;
silent) tree; hold; wait ;;
finishing) hold; restore ;;
cancelable) trap 'echo >"$at.canceled"' USR1; hold; restore ;;
tree | stopped) tree; hold; end_group ;;
stubborn) ignore_signals; tree; hold; sleep 600 ;;
forking)
    ignore_signals
    # With a limit, so that a failing test does not exhaust the machine.
    hop 1000 &
    spawn 500 &
    hold
    sleep 600
    ;;
wide) ignore_signals; flat 200; hold; sleep 600 ;;
deep) ignore_signals; nest 200 & await_file "$at.up"; hold; sleep 600 ;;
session)
    setsid sh -c 'setsid sleep 600 & echo >"$0.up"; wait' "$at" &
    await_file "$at.up"
    hold
    sleep 600
    ;;
orphan) sh -c 'trap "" TERM; sleep 600 &'; hold; sleep 600 ;;
holder)
    sleep 600 &
    echo $! >"$at.service"
    hold
    ;;
closer)
    answer
    exec >&-
    hold
    exit
    ;;
group) echo $$ >"$at.leader"; flat 3; kill -KILL 0 ;;
parent-KILL | parent-TERM) tree; hold; kill -"${shape#*-}" $PPID; sleep 600 ;;
daemon)
    sh -c 'setsid sh -c "echo \$\$ >\"\$0.service\"; exec sleep 600" "$0" &' "$at"
    await_file "$at.service"
    hold
    ;;
*) echo "no such shape: $shape" >&2; exit 2 ;;
esac
answer
