#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A small app with one fault in it, what Bridgewatch says about it, and the firewall's own counter beside.
# `make demo` runs it, as root. It takes a minute and leaves nothing behind: every step says how it is undone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

network=bridgewatch-demo # also the image's name, and the containers' label
address=127.0.0.1:10471
rounds=20
work=$(mktemp -d /tmp/bridgewatch-demo.XXXXXX)

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
die() { echo "demo: $*" >&2; exit 2; }

# Commands that take back what was done, run last to first whichever way the script ends.
undo=("rm -rf $work")
clean_up() {
    local status=$? i
    trap '' EXIT INT TERM
    say "Cleaning up."
    for ((i = ${#undo[@]} - 1; i >= 0; i--)); do
        eval "${undo[i]}" >/dev/null || echo "demo: could not: ${undo[i]}" >&2
    done
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || return 1
        sleep 0.2
    done
}

stop() { kill "$1" 2>/dev/null && wait "$1" || true; }

# A daemon of our own, where no Docker runs. What it would leave in the firewall and in sysctl is taken back.
start_docker() {
    say "Starting a Docker of our own."
    iptables -w -S DOCKER-USER >/dev/null 2>&1 || undo+=(remove_docker_chains)
    undo+=("iptables -w $(iptables -w -S FORWARD 2>/dev/null | head -n 1)")
    undo+=("sysctl -q -w net.ipv4.ip_forward=$(sysctl -n net.ipv4.ip_forward)")
    setsid dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/dockerd.pid" \
        --host "unix://$work/docker.sock" --bridge none >"$work/dockerd.log" 2>&1 &
    undo+=("stop $!")
    export DOCKER_HOST=unix://$work/docker.sock
    wait_for 30 docker info || die "dockerd did not start: $(tail -n 3 "$work/dockerd.log")"
}

remove_docker_chains() {
    local command table rules edit
    for command in iptables ip6tables; do
        for table in filter nat raw; do
            rules=$($command -w -t $table -S 2>/dev/null) || continue
            # Only an empty chain to which nothing jumps can be removed.
            for edit in '/-j DOCKER/ s/^-A/-D/p' 's/^-N DOCKER/-F DOCKER/p' 's/^-N DOCKER/-X DOCKER/p'; do
                sed -n "$edit" <<<"$rules" | xargs -r -L 1 $command -w -t $table
            done
        done
    done
}

# The app's image: nothing but a static busybox.
make_image() {
    mkdir -p "$work/image/bin" "$work/image/www"
    cp "$(command -v busybox)" "$work/image/bin/busybox"
    for applet in sh httpd wget nc seq sleep; do ln -s busybox "$work/image/bin/$applet"; done
    echo "Cats: 4, dogs: 3" >"$work/image/www/index.html"
    tar -C "$work/image" -c . | docker import - "$network" >/dev/null
}

# start NAME COMMAND...: a container of the app.
start() {
    docker run --detach --name "$1" --label "$network" --network "$network" "$network" "${@:2}" >/dev/null
}

remove_app() {
    docker ps --all --quiet --filter "label=$network" | xargs -r docker rm --force
    docker network ls --quiet --filter "name=^$network$" | xargs -r docker network rm
    docker image ls --quiet "$network" | xargs -r docker image rm
}

# series METRIC LABEL...: a metric of the app, summed by these labels, without what is 0 or noise.
series() {
    awk -v metric="$1" -v network="$network" -v labels="${*:2}" '
        BEGIN {
            count = split(labels, name, " ")
            for (i = 1; i <= count; i++) printf "%-17s", toupper(name[i])
            print "VALUE"
        }
        index($0, metric "{") == 1 && index($0, "network=\"" network "\"") && !/kind="benign"/ && $NF > 0 {
            key = ""
            for (i = 1; i <= count; i++) {
                match($0, "[{,]" name[i] "=\"[^\"]*\"")
                key = key sprintf("%-17s", substr($0, RSTART + length(name[i]) + 3, RLENGTH - length(name[i]) - 4))
            }
            if (!(key in sum)) order[++rows] = key
            sum[key] += $NF
        }
        END { for (i = 1; i <= rows; i++) printf "%s%d\n", order[i], sum[order[i]] }' "$work/metrics"
}

[[ $(id -u) -eq 0 ]] || die "needs root: run make demo"
docker info >/dev/null 2>&1 || start_docker

say "Starting Bridgewatch."
setsid bin/bridgewatch run --web.listen-address="$address" --api.socket="$work/api.sock" >"$work/agent.log" 2>&1 &
agent=$!
undo+=("stop $agent")
wait_for 20 busybox wget -q -O - "http://$address/readyz" || die "the agent did not start: $(tail -n 3 "$work/agent.log")"

say "Starting the app: vote serves on ports 80 and 8080, client asks it. A firewall rule drops what goes to port 8080."
undo+=(remove_app)
make_image
docker network create "$network" >/dev/null
bridge_filter=/proc/sys/net/bridge/bridge-nf-call-iptables
[[ -e $bridge_filter ]] || modprobe br_netfilter || die "this kernel has no br_netfilter: its firewall does not see bridges"
undo+=("echo $(<$bridge_filter) >$bridge_filter")
echo 1 >$bridge_filter
start demo-vote sh -c 'httpd -h /www -p 80 && exec httpd -f -h /www -p 8080'
start demo-client sleep 600
vote=$(docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' demo-vote)
rule="DOCKER-USER -d $vote -p tcp --dport 8080 -j DROP"
undo+=("iptables -w -D $rule 2>/dev/null || true")
iptables -w -I $rule
docker exec demo-client sh -c "for i in \$(seq $rounds); do
    wget -q -O /dev/null http://$vote/; nc -w 1 $vote 8080 </dev/null 2>/dev/null; done; true"
busybox wget -q -O "$work/metrics" "http://$address/metrics"

say "What Bridgewatch says"
bin/bridgewatch status --api.socket="$work/api.sock"
printf '\nWhat the containers send and receive (bridgewatch_packets_total):\n\n'
series bridgewatch_packets_total container network direction
printf '\nWhat is lost, whose it was, where and why (bridgewatch_dropped_packets_total):\n\n'
series bridgewatch_dropped_packets_total container scope reason cause kind

say "What is true: the rule's own counter"
rules=$(iptables -w -nvxL DOCKER-USER 2>/dev/null | grep -e pkts -e dpt:8080)
echo "$rules"
truth=$(awk 'END { print $1 }' <<<"$rules")
seen=$(series bridgewatch_dropped_packets_total container kind | awk '/^demo-client +fault/ { print $3 }')
[[ $seen == "$truth" ]] || { echo "demo: Bridgewatch counted ${seen:-nothing}, the rule $truth" >&2; exit 1; }
say "Both counted $truth packets."

say "What bridgewatch doctor says"
sleep 6 # the agent looks every 5 seconds
bin/bridgewatch doctor --api.socket="$work/api.sock" >"$work/diagnosis" && found=0 || found=$?
cat "$work/diagnosis"
[[ $found == 1 ]] && grep -q 'explain filtered' "$work/diagnosis" || { echo "demo: doctor did not find the rule" >&2; exit 1; }
