# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=dash
# The kernel is one that these tests are for: soft-dirty bits are there and chosen, PAGEMAP_SCAN is not.

probe() {
	$BUILD/tests/unit/test-track-soft-dirty test_probe 2>&1 | tee "$T/probe"
	grep -q '^soft-dirty$' "$T/probe"
}

t "the probe chooses soft-dirty" probe
