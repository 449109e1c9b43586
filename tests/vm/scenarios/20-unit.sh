# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=dash
# The unit tests of what looks into processes or changes them, case by case.

# A line WORD CASE [REASON] for each case that cmocka ran; the line before a skip is its reason. The children that a test forks
# may go on to print results, too: what failed once has failed.
cases() {
	awk '/^\[ +(OK|SKIPPED|FAILED) +\] [a-z_0-9]+$/ {
		word = /OK/ ? "PASS" : /SKIPPED/ ? "SKIP" : "FAIL"
		if (!($NF in words))
			order[++count] = $NF
		if (words[$NF] != "FAIL") {
			words[$NF] = word
			reason[$NF] = word == "SKIP" ? before : ""
		}
	}
	{ before = $0 }
	END {
		for (i = 1; i <= count; i++)
			print words[order[i]], order[i], reason[order[i]]
	}'
}

unit() { # PROGRAM
	T=$(mktemp -d /tmp/u.XXXXXX)
	name=unit-${1##*/test-}
	say "START $name" >/dev/null
	CMOCKA_MESSAGE_OUTPUT=stdout timeout "$LIMIT" "$1" >"$T/log" 2>&1
	status=$?
	cases <"$T/log" >"$T/cases"
	while read -r word case reason; do
		say "$word $name $case${reason:+: $reason}"
	done <"$T/cases"
	if [ $status -ne 0 ] && [ $status -ne 77 ]; then
		cat "$T/log"
		grep -q ^FAIL "$T/cases" || say "FAIL $name: status $status"
	elif ! [ -s "$T/cases" ]; then
		say "SKIP $name: $(tail -n 1 "$T/log")"
	fi
	rm -rf "$T"
}

for program in $BUILD/tests/unit/test-*; do
	case $program in
	*-tracee-* | *-track-* | *-dump-* | *-restore-* | *-lazy-* | *-image-*) unit "$program" ;;
	esac
done
