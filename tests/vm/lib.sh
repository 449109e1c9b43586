# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=dash
# For the scenarios, which are sourced after it by busybox's sh, one shell each:
#
#	two_moves() {
#		hosts_start
#		server_start b
#		victim_start a pages 8 1 500
#		send a --mode hybrid
#		victim_check b
#	}
#	t "pages, hybrid" two_moves
#
# A test is a function that runs in a subshell with -e, within LIMIT seconds; its exit status 77 is a skip, for the reason that
# it printed last. Whatever runs on its hosts ends with it. Only what a test prints when it fails goes to the console.
BUILD=/build
LIMIT=${LIMIT:-90}
KEYS=/run/keys

say() { # WORD NAME[: REASON]
	echo "$*" | tee /dev/ttyS1
}

# A result of a command that has ended with STATUS and printed the file LOG.
result() { # STATUS LOG NAME
	case $1 in
	0) say "PASS $3" ;;
	77) say "SKIP $3: $(tail -n 1 "$2")" ;;
	*)
		tail -n 60 "$2"
		say "FAIL $3: $(if [ -e "$T/late" ]; then echo "took over $LIMIT s"; else echo "status $1"; fi)"
		;;
	esac
}

t() { # NAME FUNCTION [ARG]...
	name=$1
	shift
	T=$(mktemp -d /tmp/t.XXXXXX)
	chmod 755 "$T"
	say "START $name" >/dev/null
	(
		trap hosts_stop EXIT
		set -e
		"$@"
	) >"$T/log" 2>&1 &
	body=$!
	# A shell that waits for a command takes no signal: it is the hosts that end, and so what it waits for.
	(
		sleep "$LIMIT" &
		trap 'kill $!; exit' TERM
		wait
		touch "$T/late"
		hosts_stop
		kill "$body"
	) 2>/dev/null &
	watchdog=$!
	wait "$body"
	status=$?
	kill "$watchdog" 2>/dev/null
	wait "$watchdog"
	result "$status" "$T/log" "$name"
	rm -rf "$T"
}

# Waits until a command succeeds.
until_true() { # SECONDS COMMAND...
	end=$(($(date +%s) + $1))
	shift
	until "$@"; do
		if [ "$(date +%s)" -gt "$end" ]; then
			echo "in vain: $*"
			return 1
		fi
		usleep 20000
	done
}

# ---- hosts a and b: namespaces of their own and a link (10.77.0.1, 10.77.0.2), as in tests/lib/hosts.py ----

host_start() { # a|b PID_BASE
	$BUILD/tests/victims/host-init "$2" </dev/null >"$T/host-$1" &
	echo $! >"$T/maker-$1"
	until_true 20 grep -qs ready "$T/host-$1"
	sed -n 's/^ready //p' "$T/host-$1" >"$T/init-$1"
}

hosts_start() {
	host_start a 1000
	host_start b 20000
	in_network a ip link add eth0 type veth peer name eth0 netns "$(cat "$T/init-b")"
	in_network a ip address add 10.77.0.1/24 dev eth0
	in_network b ip address add 10.77.0.2/24 dev eth0
	in_network a ip link set eth0 up
	in_network b ip link set eth0 up
}

in_network() { # a|b COMMAND...: on the host as far as the network goes, no further
	there=$(cat "$T/init-$1")
	shift
	/usr/bin/nsenter -t "$there" -n -- "$@"
}

hosts_stop() {
	for maker in "$T"/maker-*; do
		[ -e "$maker" ] && kill -9 "$(cat "$maker")"
	done 2>/dev/null
	return 0
}

on() { # a|b COMMAND...
	there=$(cat "$T/init-$1")
	shift
	/usr/bin/nsenter -t "$there" -m -n -p --wd=/ -- "$@"
}

address() { # a|b
	if [ "$1" = a ]; then echo 10.77.0.1; else echo 10.77.0.2; fi
}

other() { # a|b
	if [ "$1" = a ]; then echo b; else echo a; fi
}

# ---- programs ----

server_start() { # a|b [ARG]...
	host=$1
	shift
	mkdir -p "$T/state-server-$host"
	on "$host" $BUILD/tools/pageserver --listen "$(address "$host"):7711" --tls-dir $KEYS --state-dir "$T/state-server-$host" \
		"$@" </dev/null >"$T/server-$host" 2>&1 &
	until_true 30 grep -qs '^listening on ' "$T/server-$host"
}

# From the host to the other one; the victim that was started last, unless a PID is among the arguments.
send() { # a|b [ARG]...
	from=$1
	shift
	mkdir -p "$T/state-$from"
	if ! on "$from" $BUILD/tools/migrate send --to "$(address "$(other "$from")"):7711" --tls-dir $KEYS \
		--state-dir "$T/state-$from" "$@" "$(cat "$T/pid")" </dev/null; then
		echo "--- page server"
		cat "$T/server-$(other "$from")"
		return 1
	fi
}

spawn() { # a|b LOG PROGRAM [ARG]...: prints the PID
	host=$1 log=$2
	shift 2
	on "$host" $BUILD/tests/victims/host-spawn / /dev/null "$log" "$log" "$@"
}

victim_start() { # a|b NAME [ARG]...
	host=$1 victim=$2
	shift 2
	rm -rf "$T/v"
	mkdir -m 777 "$T/v"
	spawn "$host" "$T/v/log" "$BUILD/tests/victims/$victim" "$T/v" "$@" >"$T/pid"
	until_true 60 victim_begun
	if [ -e "$T/v/skip" ]; then
		cat "$T/v/skip"
		exit 77
	fi
}

victim_begun() {
	[ -e "$T/v/ready" ] || [ -e "$T/v/skip" ]
}

victim_alive() { # a|b
	on "$1" test -e "/proc/$(cat "$T/pid")/exe"
}

# The victim, which is on that host, finds its state to be what it should be.
victim_check() { # a|b
	number=$(($(cat "$T/v/check" 2>/dev/null || echo 0) + 1))
	if ! victim_alive "$1"; then
		echo "the victim is not on host $1"
		return 1
	fi
	echo $number >"$T/v/.check"
	mv "$T/v/.check" "$T/v/check"
	if ! until_true 60 grep -qs "^$number " "$T/v/result"; then
		cat "$T/v/log"
		return 1
	fi
	cat "$T/v/result"
	grep -q "^$number ok" "$T/v/result"
}
