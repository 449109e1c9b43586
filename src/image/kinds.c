/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kinds.h"

#include <assert.h>

/* A heading has no kind, kinds have no heading of their own: it is the nearest one above. */
struct line {
	bool is_heading;
	struct image_kind_facts facts;
};

static const struct line lines[] = {
#define GROUP(heading) { .is_heading = true, .facts = { .group = (heading) } },
#define RESTORED(id, title) { .facts = { .name = (title) } },
#define REFUSED(id, title, why, help) { .facts = { .name = (title), .cause = (why), .remedy = (help) } },
#include "image/kinds.def"
};

struct image_kind_facts image_kind_get(enum image_kind kind)
{
	struct image_kind_facts facts;
	const char *group = "";
	unsigned number = 0;

	assert(kind < IMAGE_KIND_COUNT);
	for (const struct line *line = lines;; line++) {
		if (line->is_heading) {
			group = line->facts.group;
		} else if (number++ == kind) {
			facts = line->facts;
			facts.group = group;
			return facts;
		}
	}
}
