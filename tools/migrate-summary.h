/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What `migrate send` prints at its end. */
#pragma once

#include "migrate/send.h"

void summary_print(const struct migrate_options *options, const struct migrate_summary *summary);
/* One JSON object on stdout; `failure` is the reason, NULL where it moved. */
void summary_print_json(const struct migrate_options *options, const struct migrate_summary *summary, int outcome,
			const char *failure);
