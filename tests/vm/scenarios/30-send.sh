# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=dash
# `migrate send` between two hosts and back, in each mode, and one victim for each kind of state.

keys() {
	$BUILD/tools/migrate keys --dir $KEYS --name 10.77.0.1 --name 10.77.0.2
}

# shellcheck disable=SC2086
there_and_back() { # "MODE [ARG]..." VICTIM [ARG]...
	mode=$1
	shift
	hosts_start
	server_start a
	server_start b
	victim_start a "$@"
	victim_check a
	send a --mode $mode
	victim_check b
	! victim_alive a
	send b --mode $mode
	victim_check a
	! victim_alive b
}

t "migrate keys" keys
# Emulated, everything takes ten times as long: a limit that suits that, or precopy mode gives up when the machine is busy.
t "send precopy pages" there_and_back "precopy --downtime-limit 1000" pages 8 2 400
t "send hybrid pages" there_and_back hybrid pages 8 2 400
t "send postcopy pages" there_and_back postcopy pages 8 2 400
for victim in mem-anon mem-file mem-stack mem-heap mem-guard mem-shared "mem-cow 8" "threads 4" syscalls signals robust timers \
	creds procattr files deleted "deleted map" pipes eventfd epoll timerfd signalfd inotify unixpair listen-tcp udp tree vdso amx; do
	# shellcheck disable=SC2086
	t "send hybrid $victim" there_and_back hybrid $victim
done
