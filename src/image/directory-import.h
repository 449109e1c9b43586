/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the import share: entries of a directory on their way to records. */
#pragma once

#include "directory-private.h"
#include "pagestream-files.pb-c.h"

/* An entry on its way to a record. */
struct import_item {
	enum image_type type;
	uint32_t id;
	ProtobufCMessage *message; /* from elsewhere: in the arena; NULL: `data` is taken as it is */
	const uint8_t *data;
	size_t size;
};

/* An open file of a memfd: which object it is of. */
struct import_memfd {
	uint32_t id, object;
};

/* The object behind a memfd. */
struct import_object {
	uint64_t inode;
	uint32_t object;
};

struct importer {
	struct image_directory *dir;
	const struct image_set *native; /* may be NULL */
	struct image_set *set;          /* being filled */
	struct error *error;
	struct image_export export;     /* what `native` looks like */
	struct image_arena arena;
	ARRAY(struct import_item) items;
	ARRAY(struct buffer) files;     /* content that items point into */
	ARRAY(struct import_memfd) memfds;
	ARRAY(struct import_object) objects;
	ARRAY(FileLockEntry *) locks;
	bool locks_changed;             /* filelocks.img is not as we would write it */
};

int image_import_no_memory(struct importer *importer);

/* directory-translate.c: the items that are not ours, as records of the set. */
int image_import_translate(struct importer *importer);
