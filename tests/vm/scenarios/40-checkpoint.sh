# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=dash
# Checkpoint directories: dumped, left running, ended, restored; and chains of pre-dumps.

checkpoint() { # COMMAND [ARG]...: migrate on host a
	mkdir -p "$T/state"
	on a $BUILD/tools/migrate "$@" --state-dir "$T/state" </dev/null
}

gone() {
	! [ -e "/proc/$(cat "$T/init-a")/root/proc/$(cat "$T/pid")" ] && ! victim_alive a
}

# Pages on demand need a newer kernel, which is said, and nothing is left half restored.
lazy_refused() {
	hosts_start
	victim_start a pages 8 2 400
	mkdir "$T/ended"
	checkpoint dump -t "$(cat "$T/pid")" -D "$T/ended" -l
	until_true 20 gone
	! checkpoint restore -D "$T/ended" -d --lazy-pages 2>"$T/said"
	cat "$T/said"
	grep -q "needs Linux 6.6" "$T/said"
	until_true 20 gone
	checkpoint restore -D "$T/ended" -d
	victim_check a
}

dump_and_restore() { # VICTIM [ARG]...
	hosts_start
	victim_start a "$@"
	victim_check a
	mkdir "$T/running" "$T/ended"
	checkpoint dump -t "$(cat "$T/pid")" -D "$T/running" -l --leave-running
	victim_check a
	checkpoint dump -t "$(cat "$T/pid")" -D "$T/ended" -l
	until_true 20 gone
	checkpoint restore -D "$T/ended" -d
	victim_check a
}

chain() {
	hosts_start
	victim_start a pages 8 2 400
	for number in 1 2 3; do
		mkdir "$T/pre-$number"
		if [ $number = 1 ]; then
			checkpoint pre-dump -t "$(cat "$T/pid")" -D "$T/pre-1"
		else
			checkpoint pre-dump -t "$(cat "$T/pid")" -D "$T/pre-$number" --prev-images-dir "../pre-$((number - 1))"
		fi
		victim_check a
	done
	mkdir "$T/last"
	checkpoint dump -t "$(cat "$T/pid")" -D "$T/last" --prev-images-dir ../pre-3
	until_true 20 gone
	checkpoint restore -D "$T/last" -d
	victim_check a
}

t "checkpoint pages" dump_and_restore pages 8 2 400
t "checkpoint pages, lazy" lazy_refused
t "checkpoint chain of pre-dumps" chain
for victim in mem-anon mem-shared "mem-cow 8" "threads 4" signals timers deleted pipes epoll unixpair tree; do
	# shellcheck disable=SC2086
	t "checkpoint $victim" dump_and_restore $victim
done
