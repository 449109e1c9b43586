/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another name of a file whose own leads elsewhere by now: it was renamed over, or linked and then removed, as temporary files
 * are that are put in their place.
 *
 * Model. The directory of the lost name is searched first, with all below it, then its parent, and so on up to the root of the
 * file system; so many entries are looked at in all. A name that was found is kept, and only looked at again at the freeze,
 * when there is no time for a search.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "util/cleanup.h"

#define ENTRIES_MAX	   100000 /* looked at in one search */
#define ENTRIES_FROZEN_MAX 10000
#define DEPTH_MAX	   16

struct search {
	const struct stat *st; /* of the file */
	size_t left;	       /* entries */
	char *path;	       /* DUMP_LINK_MAX bytes: where the search is, and in the end the name */
};

static bool leads_to(const char *path, const struct stat *st)
{
	struct stat there;

	return lstat(path, &there) == 0 && there.st_dev == st->st_dev && there.st_ino == st->st_ino;
}

/* Searches the directory search->path of `length` bytes, and those below that are of the same file system. */
static bool search_below(struct search *search, size_t length, unsigned depth)
{
	_cleanup_dir_ DIR *dir = opendir(length ? search->path : "/");
	struct dirent *entry;

	while (dir && search->left > 0 && (entry = readdir(dir))) {
		size_t name = strlen(entry->d_name);
		struct stat st;

		search->left--;
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
		    length + 1 + name >= DUMP_LINK_MAX || (entry->d_type != DT_DIR && entry->d_ino != search->st->st_ino))
			continue;
		search->path[length] = '/';
		memcpy(search->path + length + 1, entry->d_name, name + 1);
		if (entry->d_type != DT_DIR && leads_to(search->path, search->st))
			return true;
		if (entry->d_type == DT_DIR && depth < DEPTH_MAX && lstat(search->path, &st) == 0 &&
		    st.st_dev == search->st->st_dev && search_below(search, length + 1 + name, depth + 1))
			return true;
		search->path[length] = '\0';
	}
	return false;
}

/* `name` is the lost one at first. */
static bool search_up(const struct stat *st, size_t entries, char name[DUMP_LINK_MAX])
{
	struct search search = { .st = st, .left = entries, .path = name };
	char *slash;

	while (search.left > 0 && (slash = strrchr(name, '/'))) {
		struct stat above;

		*slash = '\0';
		if (lstat(*name ? name : "/", &above) < 0 || above.st_dev != st->st_dev)
			return false;
		if (search_below(&search, (size_t)(slash - name), 0))
			return true;
	}
	return false;
}

bool dump_other_name(struct dump_files *files, const struct stat *st, bool frozen, char name[DUMP_LINK_MAX])
{
	char found[DUMP_LINK_MAX];
	struct dump_name known = { .dev = st->st_dev, .ino = st->st_ino };

	array_for_each (place, &files->names)
		if (place->dev == st->st_dev && place->ino == st->st_ino && leads_to(place->path, st)) {
			snprintf(name, DUMP_LINK_MAX, "%s", place->path);
			return true;
		}
	snprintf(found, sizeof(found), "%s", name);
	if (!search_up(st, frozen ? ENTRIES_FROZEN_MAX : ENTRIES_MAX, found))
		return false;
	snprintf(name, DUMP_LINK_MAX, "%s", found);
	/* Without memory it is searched for again. */
	known.path = strdup(found);
	if (known.path && array_append(&files->names, known) < 0)
		free(known.path);
	return true;
}

void dump_names_free(struct dump_files *files)
{
	array_for_each (place, &files->names)
		free(place->path);
	array_deinit(&files->names);
}
