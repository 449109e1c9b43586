/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which ranges of an address space are registered for write protection with a userfaultfd; inside of track/. */
#pragma once

#include "kernel-abi.h"
#include "private.h"

struct track_registration {
	int userfaultfd;                 /* owned */
	struct track_ranges registered;  /* owned: of the last update, by address */
	struct track_ranges loose;       /* owned: what the last look found to have no registration, by address */
	struct abi_page_region *regions; /* owned: for what a scan answers */
};

/* Takes the userfaultfd, also on failure. -ENOMEM. */
int track_registration_init(struct track_registration *registration, int userfaultfd);
/* Takes all registrations back. */
void track_registration_deinit(struct track_registration *registration, const struct track *track);

/* Is there something in `maps` that the next update would register? */
bool track_registration_is_loose(struct track_registration *registration, const struct track *track,
				 const struct procfs_maps *maps);

/*
 * All of `maps` that holds memory of the process is registered from then on; track->untracked says what cannot be. What has
 * got its registration only now counts as written throughout.
 */
int track_registration_update(struct track_registration *registration, struct track *track,
			      const struct procfs_maps *maps);
