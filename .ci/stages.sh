# Sourced by .ci/run with a working folder: stages are timed, in front or behind; what took too long is named at the end.
folder=$1
begun=$SECONDS
rows=()
declare -A job limit_of

leave() { # nothing is left behind, whatever happened
    local code=$? each
    trap - EXIT
    for each in "${job[@]}"; do kill -TERM -- "-$each" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$folder"
    exit "$code"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

row() { # NAME LIMIT SECONDS
    local said=""
    if [ "$3" -gt "$2" ]; then said="  TOO LONG: at most $2 s"; fi
    rows+=("$(printf '%5d s  %s%s' "$3" "$1" "$said")")
}

stage() { # NAME LIMIT COMMAND: in front, its words on standard output
    local name=$1 limit=$2 from=$SECONDS
    shift 2
    echo "== $name"
    "$@" </dev/null & # in a shell of its own: what it sets and where it goes stays there
    job[$name]=$!
    if ! wait "${job[$name]}"; then failed "$name"; fi
    unset "job[$name]"
    row "$name" "$limit" $((SECONDS - from))
}

behind() { # NAME LIMIT COMMAND: in the background; its words are kept until `together`
    local name=$1
    limit_of[$name]=$2
    shift 2
    (
        from=$SECONDS
        "$@"
        echo $((SECONDS - from)) >"$folder/${name//[^a-z]/-}.seconds"
    ) </dev/null >"$folder/${name//[^a-z]/-}.log" 2>&1 &
    job[$name]=$!
}

together() { # NAME: wait for it
    local name=$1 code=0
    local file="$folder/${name//[^a-z]/-}"
    wait "${job[$name]}" || code=$?
    unset "job[$name]"
    echo "== $name"
    cat "$file.log"
    if [ "$code" != 0 ]; then failed "$name"; fi
    row "$name" "${limit_of[$name]}" "$(cat "$file.seconds")"
}

failed() {
    printf '%s\n' "${rows[@]}"
    echo "FAILED: $1"
    exit 1
}

finish() { # LIMIT: the table; a machine that is slow today makes no run fail
    row "all" "$1" $((SECONDS - begun))
    printf '%s\n' "== seconds" "${rows[@]}"
}
